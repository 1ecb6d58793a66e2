import { type CommandExitError, NotEnoughSpaceError, Sandbox } from 'e2b'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

/** The whole disk of a template is written, as fast as this machine's disk is. */
const FILL_WITHIN_MS = 180_000
const UPLOAD_BYTES = 8 * 2 ** 20

/** The outcome of a command that may fail. */
async function attempt(
  sandbox: Sandbox,
  command: string,
  user: 'user' | 'root' = 'user',
  timeoutMs = 30_000,
) {
  try {
    return await sandbox.commands.run(command, { user, timeoutMs })
  } catch (error) {
    const { exitCode, stdout, stderr } = error as CommandExitError
    return { exitCode, stdout, stderr }
  }
}

describe('limits', () => {
  let sandbox: Sandbox
  beforeAll(async () => {
    sandbox = await Sandbox.create('base')
  })
  afterAll(() => sandbox.kill())

  it('memory: the hungry process dies, the agent answers on', async () => {
    const hungry = await attempt(
      sandbox,
      'python3 -c "b = bytearray(8 << 30); b[::4096] = b\'x\' * len(b[::4096])"',
    )
    expect(hungry.exitCode).not.toBe(0)
    expect((await attempt(sandbox, 'echo alive')).stdout).toBe('alive\n')
  })

  it('memory: programs see the limit of the sandbox, and what is used of it', async () => {
    const { memoryMB } = await sandbox.getInfo()
    const sizes = await attempt(sandbox, "awk '/^Mem(Total|Available):/ { print $2 }' /proc/meminfo")
    const [total, available] = sizes.stdout.split('\n').map(Number)
    expect(total).toBe(memoryMB * 1024)
    expect(available).toBeGreaterThan(total! / 4)
    expect(available).toBeLessThan(total!)
  })

  it('processes: a fork bomb is contained', async () => {
    const bomb =
      'python3 -c "\nimport os, time\nn = 0\ntry:\n  while n < 100000:\n    if os.fork() == 0: time.sleep(3); os._exit(0)\n    n += 1\nexcept OSError: print(n)"'
    const { stdout } = await attempt(sandbox, bomb)
    expect(Number(stdout)).toBeGreaterThan(10)
    await expect
      .poll(async () => (await attempt(sandbox, 'echo alive')).stdout, { timeout: 15_000 })
      .toBe('alive\n')
  })

  it(
    'disk: the cap is hard, and space comes back',
    async () => {
      const fill = 'dd if=/dev/zero of=/home/user/big bs=1M count=1000000 2>&1'
      const full = await attempt(sandbox, fill, 'user', FILL_WITHIN_MS)
      expect(full.stdout + full.stderr).toMatch(/No space left|Disk quota exceeded/)
      const upload = sandbox.files.write('/home/user/more', new Blob([new Uint8Array(UPLOAD_BYTES)]))
      await expect(upload).rejects.toThrow(NotEnoughSpaceError)
      await attempt(sandbox, 'rm -f /home/user/big; sync')
      expect((await attempt(sandbox, 'echo back > /home/user/small && cat /home/user/small')).stdout).toBe(
        'back\n',
      )
    },
    2 * FILL_WITHIN_MS,
  )

  it('processors: as many as the template says', async () => {
    const { stdout } = await attempt(sandbox, 'nproc')
    expect(Number(stdout)).toBeLessThanOrEqual(2)
  })
})

/** What a guest can do to starve whoever shares its limits. */
const BOMBS: Record<string, string> = {
  processor: 'import os\nfor n in range(300):\n  if os.fork() == 0: break\nwhile True: pass',
  memory: `import os
def eat():
  held = []
  while True: held.append(b'x' * 1000000)
for n in range(20):
  if os.fork() == 0: eat()
while True:
  os.wait()
  if os.fork() == 0: eat()`,
  processes: `import os, time
while True:
  try:
    if os.fork() == 0: time.sleep(1000)
  except OSError: time.sleep(0.01)`,
}

describe('the agent of a sandbox that starves itself', () => {
  let sandbox: Sandbox
  afterEach(() => sandbox.kill())

  it.each(Object.keys(BOMBS))('answers, and ends what starves it: %s', async (bomb) => {
    sandbox = await Sandbox.create('base')
    const agentPid = async () => (await sandbox.commands.run('pgrep -f envd.mjs', { user: 'root' })).stdout
    const before = await agentPid()
    await sandbox.files.write('/home/user/bomb.py', BOMBS[bomb]!)
    const { pid } = await sandbox.commands.run('exec python3 bomb.py', { background: true, timeoutMs: 0 })
    await new Promise((resolve) => setTimeout(resolve, 3_000))
    for (let round = 0; round < 5; round++)
      expect(await sandbox.isRunning({ requestTimeoutMs: 5_000 })).toBe(true)
    expect((await sandbox.commands.list({ requestTimeoutMs: 5_000 })).map((one) => one.pid)).toContain(pid)
    // Processes that are left are ended by one that the agent can still start.
    await sandbox.commands.run('pkill -KILL -u user', { user: 'root', timeoutMs: 20_000 })
    await expect.poll(() => sandbox.commands.list(), { timeout: 10_000 }).toEqual([])
    expect(await agentPid()).toBe(before)
  })
})

describe('walls', () => {
  let sandbox: Sandbox
  beforeAll(async () => {
    sandbox = await Sandbox.create('base')
  })
  afterAll(() => sandbox.kill())

  it.each([
    ['mounting', 'mount -t tmpfs none /mnt'],
    ['device nodes', 'mknod /tmp/disk b 7 0'],
    ['host settings', 'echo 1 > /proc/sys/net/ipv4/ip_forward'],
    ['sysrq', 'echo h > /proc/sysrq-trigger'],
    ['new user namespaces', 'unshare -U true'],
    [
      'kernel modules',
      'python3 -c "import ctypes; c = ctypes.CDLL(None, use_errno=True); exit(0 if c.syscall(175, 0, 0, 0) == 0 else 1)"',
    ],
    [
      'the kernel keyring',
      'python3 -c "import ctypes; c = ctypes.CDLL(None, use_errno=True); exit(0 if c.syscall(250, 0, -3, 1) > 0 else 1)"',
    ],
    ['setting the clock', 'date -s 2001-01-01'],
  ])('root inside is refused: %s', async (_name, command) => {
    expect((await attempt(sandbox, command, 'root')).exitCode).not.toBe(0)
  })

  it('sees only its own processes', async () => {
    const { stdout } = await attempt(sandbox, 'ls -d /proc/[0-9]* | wc -l', 'root')
    expect(Number(stdout)).toBeLessThan(40)
  })

  it('lets root be root inside', async () => {
    expect((await attempt(sandbox, 'sudo -n id -u')).stdout).toBe('0\n')
    expect((await attempt(sandbox, 'chown user /opt && stat -c %U /opt', 'root')).stdout).toBe('user\n')
  })
})
