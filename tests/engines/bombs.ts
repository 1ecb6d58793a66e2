/** What a greedy guest runs: programs of Python that take what there is and say how far they came. */

/** Four gibibytes, each page of its own. Prints nothing when it ends before. */
export const MEMORY_BOMB = `
blocks = [bytes([i % 256]) * (1 << 20) for i in range(4096)]
print(len(blocks))
`

/** Five thousand processes. Prints the error number that ended it, and how many there were. */
export const FORK_BOMB = `
import os, signal
made = []
try:
    for _ in range(5000):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        made.append(pid)
except OSError as error:
    print(error.errno)
print(len(made))
for pid in made: os.kill(pid, 9)
`

/** As many open files as one process may have, `most` of them at the most. Prints the error number, and whether it kept the limit. */
export const descriptorBomb = (most: number): string => `
import os, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, ${most}), hard))
held = []
try:
    while True: held.append(os.open('/etc/passwd', os.O_RDONLY))
except OSError as error:
    print(error.errno)
print(len(held) <= hard)
for fd in held: os.close(fd)
`

/** Empty files in a new directory, `most` at the most. Prints the error number when the disk has no room for one more. */
export const fileBomb = (directory: string, most: number): string => `
import os
os.mkdir('${directory}')
made = 0
try:
    while made < ${most}:
        os.close(os.open(f'${directory}/{made}', os.O_CREAT))
        made += 1
except OSError as error:
    print(error.errno)
`
