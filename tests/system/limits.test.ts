import { type CommandExitError, Sandbox } from 'e2b'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

/** The outcome of a command that may fail. */
async function attempt(sandbox: Sandbox, command: string, user: 'user' | 'root' = 'user') {
  try {
    return await sandbox.commands.run(command, { user, timeoutMs: 30_000 })
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

  it('processes: a fork bomb is contained', async () => {
    const bomb =
      'python3 -c "\nimport os, time\nn = 0\ntry:\n  while n < 100000:\n    if os.fork() == 0: time.sleep(3); os._exit(0)\n    n += 1\nexcept OSError: print(n)"'
    const { stdout } = await attempt(sandbox, bomb)
    expect(Number(stdout)).toBeGreaterThan(10)
    await expect
      .poll(async () => (await attempt(sandbox, 'echo alive')).stdout, { timeout: 15_000 })
      .toBe('alive\n')
  })

  it('disk: the cap is hard, and space comes back', async () => {
    const full = await attempt(sandbox, 'dd if=/dev/zero of=/home/user/big bs=1M count=1000000 2>&1')
    expect(full.stdout + full.stderr).toMatch(/No space left|Disk quota exceeded/)
    await attempt(sandbox, 'rm -f /home/user/big; sync')
    expect((await attempt(sandbox, 'echo back > /home/user/small && cat /home/user/small')).stdout).toBe(
      'back\n',
    )
  })

  it('processors: as many as the template says', async () => {
    const { stdout } = await attempt(sandbox, 'nproc')
    expect(Number(stdout)).toBeLessThanOrEqual(2)
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
