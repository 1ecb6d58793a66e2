/** Ways out of a sandbox, tried by root inside. Each is shown to work where nothing keeps it in: on the machine itself. */
import { execFile, execFileSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { shell } from '../system/harness/test-host.ts'
import { attempts } from './attempts.ts'
import { describeEngines, EngineHost, python } from './engine-host.ts'
import { setTrap, type Trap } from './trap.ts'

/** Long enough for an engine that emulates its guests, on a machine that does something else too. */
const FIRST_BOOT_MS = 400_000
const RULES_RETURN_MS = 20_000
const REACHES_WITHIN_MS = 8_000
/** Below are people and services of the machine. */
const FIRST_SANDBOX_UID = 0x5000_0000

/** Empty when what it tells of has ended. */
function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** Undefined when the thread has ended. */
function readThread(path: string): { seccomp: number; uid: number } | undefined {
  const text = readIfThere(path)
  const number = (name: string): number => Number(new RegExp(`^${name}:\\s*(\\d+)`, 'm').exec(text)?.[1])
  return text === '' ? undefined : { seccomp: number('Seccomp'), uid: number('Uid') }
}

describeEngines('escape', (engine) => {
  const under = new EngineHost(engine)
  const { host } = under
  let trap: Trap
  let inside: string
  let sibling: string
  let server: Server
  beforeAll(async () => {
    trap = await setTrap(engine.programs)
    server = createServer((_request, response) => response.end(trap.secret)).listen(0, '0.0.0.0')
    await under.start()
    inside = await under.run('inside')
    sibling = await under.run('sibling')
  }, FIRST_BOOT_MS)
  afterAll(async () => {
    trap.remove()
    server.close()
    await host.dispose()
  }, FIRST_BOOT_MS)

  /** What of the machine shows in what an attempt printed, or in the machine. */
  const caught = (printed: string): string[] => [
    ...(printed.includes(trap.secret) ? ['secret'] : []),
    ...(printed.includes('REACHED') ? ['kernel'] : []),
    ...(new RegExp(`${host.instance}\\d+h`).test(printed) ? ['links'] : []),
    ...trap.changes(),
  ]

  for (const { what, program, hasControl = true, reachesKernel = false } of attempts) {
    if (engine.hasOwnKernel && reachesKernel) continue
    it(`does not get ${what}`, async () => {
      // One that has no control may ruin its own sandbox.
      const address = hasControl ? inside : await under.run('thrown')
      expect(caught(await python(address, program(trap)))).toEqual([])
      if (!hasControl) await under.stop('thrown')
    })
    if (!hasControl) continue
    it(`outside of a sandbox the same program gets ${what}`, async () => {
      const env = { ...process.env, TMPDIR: trap.dir }
      const { stdout } = await promisify(execFile)('python3', ['-c', program(trap)], {
        env,
        maxBuffer: 2 ** 26,
      })
      expect(caught(stdout)).not.toEqual([])
      execFileSync('rm', ['-f', `${trap.dir}/written`])
    })
  }

  it('every thread of it has a filter of system calls, and an id of its own outside', () => {
    const threads = globSync(`/sys/fs/cgroup/{pids/,}${host.instance}/*/cgroup.procs`)
      .flatMap((path) => readIfThere(path).split('\n').filter(Boolean))
      .flatMap((pid) => globSync(`/proc/${pid}/task/*/status`))
      .flatMap((path) => readThread(path) ?? [])
    expect(threads.length).toBeGreaterThan(2)
    for (const { seccomp, uid } of threads) {
      expect(seccomp).toBe(2)
      expect(uid).toBeGreaterThanOrEqual(FIRST_SANDBOX_UID)
    }
  })

  const addressesOutside = (): string[] => {
    const { port } = server.address() as AddressInfo
    const machine = inside.replace(/\.\d+$/, '.1')
    return [
      ...[machine, '169.254.0.22', '127.0.0.1', '0.0.0.0'].map((address) => `http://${address}:${port}`),
      `http://[::1]:${port}`,
      `http://[fe80::1%eth0]:${port}`,
      `http://${sibling}:49983/health`,
      'http://169.254.169.254/latest/meta-data/',
      'http://10.0.0.1',
      'http://192.168.0.1',
    ]
  }
  const reach = (url: string, signal?: AbortSignal): Promise<string> =>
    shell(
      inside,
      `curl -sg -o - -w ' %{http_code}' --connect-timeout 2 --max-time 3 '${url}' || true`,
      signal,
    )
  /** Rules that come and go can leave the connection to the agent without an end. */
  const reachSoon = (url: string): Promise<string> => reach(url, AbortSignal.timeout(REACHES_WITHIN_MS))

  it('reaches neither this machine, nor siblings, nor private and metadata addresses', async () => {
    const answers = await Promise.all(addressesOutside().map((url) => reach(url)))
    expect(answers.map((answer) => answer.trim())).toEqual(answers.map(() => '000'))
  })

  it('without the rules it reaches this machine, until they are put back', async () => {
    const [machine] = addressesOutside()
    const withoutRules = async (): Promise<string> => {
      execFileSync('nft', ['delete', 'table', 'inet', host.instance], { stdio: 'ignore' })
      return await reachSoon(machine!)
    }
    await expect
      .poll(() => withoutRules().catch(() => ''), { timeout: RULES_RETURN_MS })
      .toContain(trap.secret)
    await expect.poll(() => reachSoon(machine!), { timeout: RULES_RETURN_MS }).toMatch(/^ ?000$/)
  })

  it('takes no address of a sibling and speaks no IPv6 on its link', async () => {
    await python(
      inside,
      `
import socket, struct
def send(family, protocol, *packets):
    try:
        s = socket.socket(family, socket.SOCK_RAW, protocol)
        s.bind(('eth0', 0))
        for packet in packets: s.send(packet)
    except (OSError, AttributeError): pass
mine = bytes.fromhex('02e2b0000015')
theirs = socket.inet_aton('${sibling}')
arp = b'\\xff' * 6 + mine + struct.pack('!HHHBBH', 0x806, 1, 0x800, 6, 4, 2) + mine + theirs + b'\\xff' * 6 + theirs
send(socket.AF_PACKET, socket.htons(3), arp)
try:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.sendto(b'x', ('ff02::1%eth0', 9))
except OSError: pass
`,
    )
    expect(await shell(sibling, 'echo reached')).toBe('reached')
    const neighbours = execFileSync('ip', ['-6', 'neigh'], { encoding: 'utf8' })
    expect(neighbours).not.toContain(`dev ${host.instance}`)
  })
})
