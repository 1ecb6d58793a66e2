/**
 * Lives of sandboxes by the hundred, by parallel workers with the official client, against a server that is SIGKILLed
 * at random instants; afterwards API and machine must agree, and nothing may be left over. See ../README.md.
 */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { Sandbox } from '@e2b/code-interpreter'
import { readArguments, wholeNumber } from '../command-line.ts'
import { createTestServer, type TestServer } from '../system/harness/server.ts'
import { CrashingServer, within } from './crashing-server.ts'
import { assertHeld, Tally, Worker } from './cycles.ts'
import {
  type ApiView,
  differences,
  type Finding,
  leftovers,
  type Spare,
  spareUppers,
} from './machine-view.ts'
import { Random } from './random.ts'

interface Plan {
  cycles: number
  kills: number
  seed: number
  workers: number
}

const SERVER_INDEX = 9
const PROGRESS_EVERY_MS = 5_000
/** Room for slow machines; a run that hangs ends. */
const MAX_CYCLE_MS = 30_000
/** Deleting happens in the background, and what a kill left is found by the next upkeep, each half minute. */
const SETTLED_WITHIN_MS = 45_000
const MAX_IDLE_SLOTS = 32
const IDLE_TIMEOUT_MS = 3_600_000

function useServer({ clientEnv }: TestServer): void {
  Object.assign(process.env, clientEnv)
  delete process.env.E2B_DEBUG
  const bundle = readFileSync(clientEnv.NODE_EXTRA_CA_CERTS!, 'utf8')
  setDefaultCACertificates([...getCACertificates('default'), bundle])
}

async function allPages<T>(pages: { hasNext: boolean; nextItems(): Promise<T[]> }): Promise<T[]> {
  const items: T[] = []
  while (pages.hasNext) items.push(...(await pages.nextItems()))
  return items
}

interface Listed {
  readonly running: string[]
  readonly paused: string[]
  readonly snapshots: string[]
}

async function listAll(): Promise<Listed> {
  const sandboxes = await allPages(Sandbox.list({ limit: 100 }))
  const snapshots = await allPages(Sandbox.listSnapshots({ limit: 100 }))
  const inState = (wanted: string): string[] =>
    sandboxes.filter(({ state }) => state === wanted).map(({ sandboxId }) => sandboxId)
  return {
    running: inState('running'),
    paused: inState('paused'),
    snapshots: snapshots.map(({ snapshotId }) => snapshotId),
  }
}

const counted = ({ running, paused, snapshots }: Listed): ApiView => ({
  running: running.length,
  paused: paused.length,
  snapshots: snapshots.length,
})

/** Kills whenever the next share of the cycles is done, so that all of them hit work. */
async function crashAmongCycles(
  server: CrashingServer,
  tally: Tally,
  plan: Plan,
  signal: AbortSignal,
): Promise<void> {
  while (server.kills < plan.kills) {
    const due = ((server.kills + 1) * plan.cycles) / (plan.kills + 1)
    while (tally.done < due - plan.workers && !signal.aborted) await delay(20)
    if (signal.aborted) return
    await server.crash()
  }
}

async function runCycles(server: CrashingServer, tally: Tally, plan: Plan): Promise<void> {
  let next = 0
  const work = async (stream: number): Promise<void> => {
    const worker = new Worker(server, new Random(plan.seed, stream), tally)
    while (next < plan.cycles) await worker.cycle(next++)
  }
  const limitMs = Math.max(300_000, (plan.cycles * MAX_CYCLE_MS) / plan.workers)
  const ended = new AbortController()
  const crashes = crashAmongCycles(server, tally, plan, ended.signal)
  const workers = Array.from({ length: plan.workers }, (_, at) => work(at + 1))
  try {
    await within(limitMs, 'the run', Promise.all([...workers, crashes]))
  } finally {
    ended.abort()
  }
  await server.whenUp()
}

async function settledDifferences(find: () => Promise<Finding[]> | Finding[]): Promise<Finding[]> {
  const deadlineMs = Date.now() + SETTLED_WITHIN_MS
  for (;;) {
    const found = await find()
    if (found.length === 0 || Date.now() > deadlineMs) return found
    await delay(500)
  }
}

const found = (when: string, findings: readonly Finding[]): string[] =>
  findings.map(({ what, expected, actual }) => `${when}: ${what}: ${actual} instead of ${expected}`)

async function attempt(failures: string[], what: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await within(60_000, what, work())
  } catch (error) {
    failures.push(`${what}: ${error instanceof Error ? error.message : String(error)}`.slice(0, 400))
  }
}

/** What the API lists is what clients know, works, and is what the machine has. */
async function checkAgreement(tally: Tally, listed: Listed): Promise<void> {
  const { failures, held, unknownSandboxes, unknownSnapshots } = tally
  for (const { id, isPaused } of held) {
    if (!(isPaused ? listed.paused : listed.running).includes(id))
      failures.push(`${id}, ${isPaused ? 'paused' : 'running'}, is not listed so`)
  }
  const known = new Map(held.map((one) => [one.id, one]))
  const all = [...listed.running, ...listed.paused]
  const strangers = all.filter((id) => !known.has(id))
  if (strangers.length > unknownSandboxes)
    failures.push(`${strangers.length} sandboxes of nobody, at most ${unknownSandboxes} can be`)
  if (listed.snapshots.length > unknownSnapshots)
    failures.push(`${listed.snapshots.length} snapshots of nobody, at most ${unknownSnapshots} can be`)
  for (const id of all) {
    const one = known.get(id)
    await attempt(failures, `use of ${id}`, async () => {
      if (one) return assertHeld(one)
      return (await Sandbox.connect(id, { timeoutMs: IDLE_TIMEOUT_MS })).commands.run('true')
    })
  }
}

async function killEverything(tally: Tally, { running, paused, snapshots }: Listed): Promise<void> {
  for (const id of [...running, ...paused])
    await attempt(tally.failures, `kill of ${id}`, () => Sandbox.kill(id))
  for (const id of snapshots)
    await attempt(tally.failures, `deletion of ${id}`, () => Sandbox.deleteSnapshot(id))
}

async function check(server: TestServer, tally: Tally, spare: Spare, say: (line: string) => void) {
  const { config } = server
  const { failures } = tally
  const machine = async (): Promise<Finding[]> => differences(config, counted(await listAll()), spare)
  const listed = await listAll()
  say(`listed: ${JSON.stringify(counted(listed))}`)
  failures.push(...found('with sandboxes', await settledDifferences(machine)))
  await checkAgreement(tally, listed)
  await killEverything(tally, listed)
  const left = await listAll()
  if (Object.values(counted(left)).some(Boolean)) failures.push(`still listed: ${JSON.stringify(left)}`)
  failures.push(...found('without sandboxes', await settledDifferences(machine)))
  const status = await server.stop()
  if (status !== 0) failures.push(`the server ended with status ${status}`)
  failures.push(...found('after the server', await settledDifferences(() => leftovers(config))))
  return counted(listed)
}

async function runChaos(plan: Plan, asJson: boolean): Promise<void> {
  const say = (line: string): void => console.error(line)
  const logPath = join(mkdtempSync(join(tmpdir(), 'e2b-chaos-')), 'server.log')
  const server = createTestServer(SERVER_INDEX, { E2B_POOL_MAX: '2', E2B_ON_SHUTDOWN: 'kill' })
  const crashing = new CrashingServer(server, new Random(plan.seed))
  const tally = new Tally()
  const beganMs = performance.now()
  let told = 0
  const progress = (): void => {
    for (const failure of tally.failures.slice(told)) say(failure)
    told = tally.failures.length
    say(
      `${Math.round((performance.now() - beganMs) / 1000)} s: cycles ${tally.done}/${plan.cycles}, ` +
        `kills ${crashing.kills}/${plan.kills}, interrupted ${tally.interrupted}, failures ${told}`,
    )
  }
  const ticking = setInterval(progress, PROGRESS_EVERY_MS)
  let listed: ApiView | undefined
  say(`seed ${plan.seed}, server log ${logPath}`)
  try {
    await server.start()
    useServer(server)
    const spare = { uppers: await spareUppersAtRest(server), maxSlots: MAX_IDLE_SLOTS }
    await runCycles(crashing, tally, plan)
    progress()
    clearInterval(ticking)
    listed = await check(server, tally, spare, say)
  } catch (error) {
    tally.failures.push(String(error))
  } finally {
    clearInterval(ticking)
    writeFileSync(logPath, server.output())
    await server.dispose()
  }
  const { done, interrupted, failures } = tally
  const seconds = Math.round((performance.now() - beganMs) / 1000)
  const result = { ...plan, cycles: done, kills: crashing.kills, interrupted, seconds, listed, failures }
  if (asJson) console.log(JSON.stringify(result, null, 2))
  else {
    for (const failure of failures) console.log(`  ${failure}`)
    console.log(
      `${done} cycles (${interrupted} cut short), ${crashing.kills} kills, ${seconds} s: ${failures.length} failures`,
    )
  }
  const isComplete = done === plan.cycles && crashing.kills >= plan.kills
  process.exit(failures.length === 0 && isComplete ? 0 : 1)
}

/** Uppers are made ahead in the background: their number when it no longer grows. */
async function spareUppersAtRest({ config }: TestServer): Promise<number> {
  let before = -1
  for (;;) {
    const now = spareUppers(config)
    if (now > 0 && now === before) return now
    before = now
    await delay(1_000)
  }
}

const USAGE = `usage: run.ts [options]
  --cycles COUNT   lives of sandboxes [500]
  --kills COUNT    SIGKILLs of the server among them [30]
  --workers COUNT  lives at once [4]
  --seed NUMBER    repeats the choices and the instants of a run [random]
  --json           print the result as JSON
  --help           this text`

const text = { type: 'string' } as const
const { values } = readArguments(USAGE, {
  options: {
    cycles: { ...text, default: '500' },
    kills: { ...text, default: '30' },
    workers: { ...text, default: '4' },
    seed: text,
    json: { type: 'boolean', default: false },
  },
})
const plan: Plan = {
  cycles: wholeNumber(values.cycles, 'cycles', 1, USAGE),
  kills: wholeNumber(values.kills, 'kills', 0, USAGE),
  workers: wholeNumber(values.workers, 'workers', 1, USAGE),
  seed: wholeNumber(values.seed ?? String(Math.floor(Math.random() * 2 ** 31)), 'seed', 0, USAGE),
}
await runChaos(plan, values.json)
