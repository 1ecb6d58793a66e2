import type { EngineName } from '@sandbox/host/engines/engine'
import { type AliveReport, measureAlive } from './alive.ts'
import { type Lane, type Measure, measureOf, startsInTurn, withLanes } from './engine-lanes.ts'
import { measureWork } from './engine-work.ts'
import { type EnginesResults, enginesReport } from './engines-report.ts'
import { type FloorBench, probeInstalled, withFloors } from './floor.ts'
import { step } from './progress.ts'
import { describeLoad, untilQuiet } from './quiet.ts'
import { describeMachine } from './report.ts'
import { measureThroughput, type StartTimes, type Throughput } from './starts.ts'
import { TEMPLATE, templateSnapshotId } from './template.ts'

type ByEngine<T> = ReadonlyMap<EngineName, T>

const POOL_SIZE = 4
const ALIVE = 20
const THROUGHPUT_WORKERS = 4
const THROUGHPUT_MS_A_ROUND = 333

/**
 * The same on every engine that boots something here, each next to its floor.
 * @param rounds of creates; the rest follows from it
 */
export async function benchEngines(rounds: number): Promise<{ markdown: string; results: EnginesResults }> {
  const snapshotId = templateSnapshotId()
  const machine = describeMachine()
  step('Which engines boot')
  const reports = await probeInstalled()
  // The weakest wall first: the others are compared with it.
  const names = reports.flatMap(({ name, report }) => (report.usable ? [name] : [])).reverse()
  step(`First starts of ${names.join(', ')}`)
  const fresh = await withLanes(names, 0, (lanes) =>
    withFloors(snapshotId, names, (floors) => measureFresh(lanes, floors, rounds)),
  )
  step(`First starts with a pool of ${POOL_SIZE}`)
  const pooled = await withLanes(names, POOL_SIZE, (lanes) => measurePooled(lanes, rounds))
  const startMeasures = [
    ...startMeasuresOf('no pool', fresh.starts, fresh.restoreMs),
    ...startMeasuresOf('pool', pooled.starts, fresh.restoreMs),
  ]
  const throughput = new Map(
    names.map((name) => [name, { fresh: fresh.throughput.get(name)!, pooled: pooled.throughput.get(name)! }]),
  )
  const results = {
    ...{ machine: `${machine}; ${describeLoad()}`, reports, throughput, alive: fresh.alive },
    measures: [...startMeasures, ...fresh.pauses, ...fresh.work],
  }
  return { markdown: enginesReport(results), results }
}

interface FreshResults {
  starts: ByEngine<StartTimes>
  /** Bare restores to the agent, each right after a create. */
  restoreMs: ByEngine<number[]>
  pauses: Measure[]
  work: Measure[]
  throughput: ByEngine<Throughput>
  alive: ByEngine<AliveReport>
}

async function measureFresh(
  lanes: readonly Lane[],
  floors: ByEngine<FloorBench>,
  rounds: number,
): Promise<FreshResults> {
  await untilQuiet()
  step('Creates without a pool')
  const restoreMs = new Map(lanes.map(({ name }) => [name, [] as number[]]))
  const starts = await startsInTurn(lanes, {
    ...{ rounds, poolSize: 0 },
    between: async (name) => {
      restoreMs.get(name)!.push((await floors.get(name)!.restore()).agentMs)
    },
  })
  await untilQuiet()
  step('Pause and resume')
  const pauses = await measurePauses(lanes, floors, Math.ceil(rounds / 3), restoreMs)
  const work = await measureWork(lanes, rounds)
  const throughput = await throughputOf(lanes, rounds)
  const alive = new Map<EngineName, AliveReport>()
  for (const { name, bench } of lanes) {
    step(`Memory with ${ALIVE} alive on ${name}`)
    alive.set(name, await measureAlive(bench, ALIVE))
  }
  return { starts, restoreMs, pauses, work, throughput, alive }
}

async function measurePooled(
  lanes: readonly Lane[],
  rounds: number,
): Promise<{ starts: ByEngine<StartTimes>; throughput: ByEngine<Throughput> }> {
  await untilQuiet()
  step('Creates with a pool')
  const starts = await startsInTurn(lanes, { rounds, poolSize: POOL_SIZE })
  return { starts, throughput: await throughputOf(lanes, rounds) }
}

async function throughputOf(lanes: readonly Lane[], rounds: number): Promise<ByEngine<Throughput>> {
  const throughput = new Map<EngineName, Throughput>()
  for (const { name, bench } of lanes) {
    await untilQuiet()
    step(`Creates and kills a second on ${name}`)
    const forMs = rounds * THROUGHPUT_MS_A_ROUND
    throughput.set(name, await measureThroughput(bench, { workers: THROUGHPUT_WORKERS, forMs }))
  }
  return throughput
}

/** Of a sandbox in which nothing has run, as the floor has it. */
async function measurePauses(
  lanes: readonly Lane[],
  floors: ByEngine<FloorBench>,
  rounds: number,
  restoreMs: ByEngine<number[]>,
): Promise<Measure[]> {
  const times = new Map(
    lanes.map(({ name }) => [
      name,
      { pauseMs: [] as number[], resumeMs: [] as number[], captureMs: [] as number[] },
    ]),
  )
  for (let round = 0; round < rounds; round++) {
    for (const { name, bench } of lanes) {
      const { pauseMs, resumeMs, captureMs } = times.get(name)!
      const sandbox = await bench.client.create(TEMPLATE)
      await bench.client.health(sandbox)
      pauseMs.push(await timed(() => bench.client.pause(sandbox)))
      const resume = async (): Promise<void> => {
        await bench.client.resume(sandbox)
        await bench.client.health(sandbox)
      }
      resumeMs.push(await timed(resume))
      await bench.client.kill(sandbox)
      captureMs.push(await floors.get(name)!.capture())
    }
  }
  const names = lanes.map(({ name }) => name)
  const of = (name: EngineName) => times.get(name)!
  return [
    measureOf(
      'Pause',
      names,
      (name) => of(name).pauseMs,
      (name) => of(name).captureMs,
    ),
    measureOf(
      'Resume to agent',
      names,
      (name) => of(name).resumeMs,
      (name) => restoreMs.get(name)!,
    ),
  ]
}

async function timed(task: () => Promise<void>): Promise<number> {
  const startedMs = performance.now()
  await task()
  return performance.now() - startedMs
}

function startMeasuresOf(
  title: string,
  starts: ByEngine<StartTimes>,
  restoreMs: ByEngine<number[]>,
): Measure[] {
  const names = [...starts.keys()]
  const floorOf = (name: EngineName): number[] => restoreMs.get(name)!
  return [
    measureOf(`Create to agent, ${title}`, names, (name) => starts.get(name)!.agentMs, floorOf),
    measureOf(`Create to first result, ${title}`, names, (name) => starts.get(name)!.resultMs, floorOf),
    measureOf(
      `Kill, ${title}`,
      names,
      (name) => starts.get(name)!.killMs,
      () => [],
    ),
  ]
}
