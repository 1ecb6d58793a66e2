import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { runscPath } from '../../../packages/server/src/engines/gvisor.ts'
import { type Attempt, attempts } from '../../engines/attempts.ts'
import { setTrap } from '../../engines/trap.ts'
import { type Case, ofFirecracker, withoutGuestKernel } from './case.ts'
import { monitorPid } from './firecracker-machine.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'
import { jailOf } from './jail.ts'
import { machineWallCases } from './machine-wall-cases.ts'
import { assertConfined } from './sandbox-processes.ts'
import { setWalled, WALLS, walled } from './walled.ts'

/** Ways out of a sandbox, tried by its root. Each is shown to work on this machine itself, or without the firewall. */

const RULES_RETURN_MS = 180_000
const REACHES_WITHIN_MS = 60_000
const TAKEN_AWAY_EVERY_MS = 500

/** An engine, and what is different with it. */
interface Target {
  of: Pick<Case, 'engine' | 'monitor' | 'boot'>
  hasOwnKernel: boolean
  /** Files of this machine that run sandboxes. */
  programs: (host: HostUnderTest) => string[]
  /** @throws AssertionError when a sandbox is less confined than it should be */
  assertWalls: (running: Running) => void
  cases: readonly Case[]
}

const machine: Target = {
  of: ofFirecracker,
  hasOwnKernel: true,
  programs: ({ config }) => [config.firecracker, config.jailer],
  assertWalls: ({ address }) => jailOf(monitorPid(address)),
  cases: machineWallCases,
}

const [container, gvisor] = withoutGuestKernel.map(
  (of): Target => ({
    of,
    hasOwnKernel: false,
    programs: ({ config }) => [of.engine === 'gvisor' ? runscPath(config) : '/usr/bin/crun'],
    assertWalls: ({ address }) => assertConfined(address),
    cases: [],
  }),
) as [Target, Target]

function caught(printed: string): string[] {
  const { trap } = walled()
  return [
    ...(printed.includes(trap.secret) ? ['secret'] : []),
    ...(printed.includes('REACHED') ? ['kernel'] : []),
    ...(/\be2b\d+h/.test(printed) ? ['links'] : []),
    ...trap.changes(),
  ]
}

/** What the same program gets where nothing keeps it in: on the machine, as root. */
async function withoutWalls(program: string): Promise<string[]> {
  const { dir } = walled().trap
  const { stdout } = await promisify(execFile)('python3', ['-c', program], {
    env: { ...process.env, TMPDIR: dir },
    maxBuffer: 2 ** 26,
  })
  const got = caught(stdout)
  execFileSync('rm', ['-f', `${dir}/written`])
  return got
}

const attempt = ({ of }: Target, { what, program, hasControl = true }: Attempt): Case => ({
  ...of,
  part: WALLS,
  name: `root inside does not get ${what}${hasControl ? ', which root outside gets' : ''}`,
  async run(host) {
    const { trap, inside } = walled()
    // One that has no control may ruin its own sandbox.
    const from = hasControl ? inside : await host.start()
    assert.deepEqual(caught(await host.python(from.address, program(trap))), [])
    if (hasControl) assert.notDeepEqual(await withoutWalls(program(trap)), [])
    else await host.stop(from)
    return {}
  },
})

const reach = async (host: HostUnderTest, { address }: Running, url: string): Promise<string> =>
  (
    await host.run(
      address,
      `curl -sg -o - --connect-timeout 10 --max-time 15 '${url}' || true`,
      // Rules that come and go can leave a connection without an end.
      AbortSignal.timeout(REACHES_WITHIN_MS),
    )
  ).output

async function networkIsClosed(host: HostUnderTest): Promise<void> {
  const { trap, inside, sibling } = walled()
  const server = createServer((_request, response) => response.end(trap.secret)).listen(0, '0.0.0.0')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const machine = `http://${inside.address.replace(/\.\d+$/, '.1')}:${port}`
  const urls = [
    machine,
    `http://169.254.0.22:${port}`,
    `http://${sibling.address}:49983/health`,
    'http://169.254.169.254/latest/meta-data/',
    'http://10.0.0.1',
    `http://[fe80::1%25eth0]:${port}`,
  ]
  const answers = await Promise.all(urls.map((url) => reach(host, inside, url)))
  assert.deepEqual(
    answers,
    urls.map(() => ''),
  )
  const until = async (expected: (got: string) => boolean): Promise<void> => {
    const endsAtMs = performance.now() + RULES_RETURN_MS
    for (;;) {
      const got = await reach(host, inside, machine).catch(() => '')
      if (expected(got)) return
      assert.ok(performance.now() < endsAtMs, got)
    }
  }
  await withoutRules(() => until((got) => got.includes(trap.secret)))
  await until((got) => got === '')
  server.close()
}

/** The host puts its rules back soon, perhaps before an emulated guest has tried: they are taken away again and again. */
async function withoutRules(action: () => Promise<void>): Promise<void> {
  let isOver = false
  const takeAway = async (): Promise<void> => {
    while (!isOver) {
      // None are there while they are not back yet.
      await promisify(execFile)('nft', ['delete', 'table', 'inet', 'e2b']).catch(() => {})
      await delay(TAKEN_AWAY_EVERY_MS)
    }
  }
  const taking = takeAway()
  try {
    await action()
  } finally {
    isOver = true
    await taking
  }
}

const casesOf = (target: Target): Case[] => [
  {
    ...target.of,
    part: WALLS,
    name: 'a trap is set on the machine',
    async run(host) {
      const [inside, sibling] = [await host.start(), await host.start()]
      setWalled({ inside, sibling, trap: await setTrap(target.programs(host)) })
      return {}
    },
  },
  ...attempts
    .filter(({ reachesKernel = false }) => !(reachesKernel && target.hasOwnKernel))
    .map((each) => attempt(target, each)),
  ...target.cases,
  {
    ...target.of,
    part: WALLS,
    name: 'this machine, siblings and metadata are out of reach, until the rules are taken away and put back',
    async run(host) {
      await networkIsClosed(host)
      return {}
    },
  },
  {
    ...target.of,
    part: WALLS,
    name: 'nothing of the machine has changed, and sandboxes are confined as before',
    async run(host) {
      const { trap, inside, sibling } = walled()
      assert.deepEqual(trap.changes(), [])
      for (const running of [inside, sibling]) target.assertWalls(running)
      trap.remove()
      await host.stop(inside, sibling)
      return {}
    },
  },
]

export const wallCases: Case[] = [machine, container, gvisor].flatMap(casesOf)
