import { existsSync } from 'node:fs'
import type { Trap } from './trap.ts'

/** A way out of a sandbox, as a Python program of root inside. */
export interface Attempt {
  readonly what: string
  /** Prints the secret of the trap, or writes where the trap looks, when it gets out. */
  readonly program: (trap: Trap) => string
  /** False where running it on the machine itself would change the machine, or can show nothing. Default true. */
  readonly hasControl?: boolean
  /** It only reaches the kernel that the guest talks to: no escape where that is the guest's own. */
  readonly reachesKernel?: boolean
}

const C = 'import ctypes, glob, os, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n'

/** Every program goes on when one of its ways is refused. */
const each = (paths: string, body: string): string =>
  `${C}for path in ${paths}:\n    try:\n        ${body}\n    except OSError: pass\n`

/** Names under which a program inside may know the loop device of the trap. */
const deviceNode = ({ device }: Trap): string => `${C}
import stat
node = os.path.join(os.environ.get('TMPDIR', '/tmp'), 'node-of-trap')
if os.path.lexists(node): os.unlink(node)
for make in (lambda: os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(${device.major}, ${device.minor})),
             lambda: os.symlink('/dev/loop${device.minor}', node)):
    try:
        make()
        break
    except OSError: pass
`

export const attempts: readonly Attempt[] = [
  {
    what: 'a file of the machine through /proc/*/root',
    program: ({ dir }) =>
      each(
        `glob.glob('/proc/[0-9]*/root') + glob.glob('/proc/[0-9]*/cwd')`,
        `print(open(path + '${dir}/secret').read())`,
      ),
  },
  {
    what: 'writing to the machine through /proc/*/root',
    program: ({ dir }) =>
      each(`glob.glob('/proc/[0-9]*/root')`, `open(path + '${dir}/written', 'w').write('x')`),
  },
  {
    what: 'the environment of a process outside',
    program: () =>
      each(`glob.glob('/proc/[0-9]*/environ')`, `print(open(path, 'rb').read().decode('latin1'))`),
  },
  {
    what: 'tracing a process outside',
    program: ({ pid }) => `${C}
if libc.ptrace(16, ${pid}, 0, 0) == 0:
    libc.waitpid(${pid}, 0, 0x40000000)
    print(open('/proc/${pid}/environ', 'rb').read().decode('latin1'))
    libc.ptrace(17, ${pid}, 0, 0)
`,
  },
  {
    what: 'an abstract socket of the machine',
    program: ({ token }) => `${C}
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(b'\\0${token}')
    print(s.recv(100).decode())
except OSError: pass
`,
  },
  {
    what: 'a key of the machine',
    program: ({ token }) => `${C}
key = libc.syscall(250, 10, -4, b'user', b'${token}', 0)
text = ctypes.create_string_buffer(100)
if key > 0 and libc.syscall(250, 11, key, text, 100) > 0: print(text.value.decode())
`,
  },
  {
    what: 'a raw block device of the machine',
    program: (trap) => `${deviceNode(trap)}
try: print(open(node, 'rb').read(1 << 16).decode('latin1'))
except OSError: pass
`,
  },
  {
    what: 'mounting a file system of the machine',
    program: (trap) => `${deviceNode(trap)}
target = node + '.mnt'
os.makedirs(target, exist_ok=True)
if libc.mount(node.encode(), target.encode(), b'erofs', 1, None) == 0:
    print(open(target + '/secret').read())
    libc.umount2(target.encode(), 2)
`,
  },
  {
    what: 'the links of the machine by netlink',
    program: () => `${C}
import struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
s.settimeout(2)
s.send(struct.pack('=IHHIIBxHiII', 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
try:
    for _ in range(20): print(s.recv(1 << 16).decode('latin1'))
except OSError: pass
`,
  },
  {
    what: 'loading a kernel module',
    reachesKernel: true,
    // A kernel without modules has nothing to show.
    hasControl: existsSync('/proc/modules'),
    // The loader complains about the format only to those who may load.
    program: () => `${C}
text = b'not a module'
libc.syscall(175, text, len(text), b'')
if ctypes.get_errno() == 8: print('REACHED')
`,
  },
  {
    what: 'a socket to the hypervisor of the machine',
    reachesKernel: true,
    hasControl: existsSync('/dev/vsock'),
    program: () => `${C}
try:
    socket.socket(40, socket.SOCK_STREAM)
    print('REACHED')
except OSError: pass
`,
  },
  {
    what: 'a release agent of the machine',
    hasControl: false,
    program: ({ dir }) => `${C}
os.makedirs('/mnt/cg', exist_ok=True)
for kind in (b'memory', b'rdma', b'pids', b'cpu', b'devices', b'none,name=x'):
    libc.mount(b'cgroup', b'/mnt/cg', b'cgroup', 0, kind)
    for path in ['/mnt/cg/release_agent'] + glob.glob('/sys/fs/cgroup/**/release_agent', recursive=True):
        try: open(path, 'w').write('${dir}/agent')
        except OSError: pass
    libc.umount2(b'/mnt/cg', 2)
`,
  },
  {
    what: 'a program for the machine to run',
    hasControl: false,
    program: ({ dir }) =>
      each(
        `['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/proc/sys/kernel/hotplug', '/sys/kernel/uevent_helper']`,
        `open(path, 'w').write('|${dir}/agent')`,
      ),
  },
  {
    what: 'replacing the program that runs the sandbox',
    hasControl: false,
    program: () =>
      each(`glob.glob('/proc/[0-9]*/exe') + ['/proc/self/exe']`, `open(path, 'r+b').write(b'#!')`),
  },
]
