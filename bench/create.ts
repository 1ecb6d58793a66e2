import { measureAlive } from './alive.ts'
import { type BenchServer, openBenchServer } from './bench-server.ts'
import { type CreateResults, createReport, type ServerResults } from './create-report.ts'
import { type RestoreTimes, withFloor } from './floor.ts'
import { trustCertificatesOf } from './official-client.ts'
import { step } from './progress.ts'
import { untilQuiet } from './quiet.ts'
import { describeMachine } from './report.ts'
import { measureOfficialClient, measureStarts, measureThroughput, type StartTimes } from './starts.ts'
import { templateSnapshotId } from './template.ts'

const AT_ONCE = [1, 2, 4, 8, 20] as const
const POOL_SIZE = 8
const ALIVE = 50
const COPYING_ROUNDS = 20
const COLD_ROUNDS = 3
const THROUGHPUT_MS = 10_000
/** As many creates in flight keep both cores busy; more only wait. */
const THROUGHPUT_WORKERS = 4
const OFFICIAL_ROUNDS = 12

export interface CreateOutcome {
  markdown: string
  results: CreateResults
}

/** Measures everything about starts, in turn, on a server of its own. Leaves nothing. About two minutes. */
export async function benchCreate(): Promise<CreateOutcome> {
  const snapshotId = templateSnapshotId()
  const machine = describeMachine()
  await untilQuiet()
  step('Bare restores, copying (as stock CRIU)')
  const copying = await withFloor(snapshotId, 'stock', (bare) => inTurn(COPYING_ROUNDS, () => bare.restore()))
  step('Cold boots with crun')
  const cold = await withFloor(snapshotId, 'cow', (bare) => inTurn(COLD_ROUNDS, () => bare.boot()))
  const floor: RestoreTimes[] = []
  const { results: fresh, extra: alive } = await withFloor(snapshotId, 'cow', (bare) =>
    onServer(0, {
      between: async () => void floor.push(await bare.restore()),
      after: (bench) => {
        step(`Memory with ${ALIVE} alive`)
        return measureAlive(bench, ALIVE)
      },
    }),
  )
  const { results: pooled } = await onServer(POOL_SIZE, { after: async () => undefined })
  const results = { machine, floor, copying, cold, fresh, pooled, alive }
  return { markdown: createReport(results), results }
}

async function inTurn<T>(rounds: number, measure: () => Promise<T>): Promise<T[]> {
  const all: T[] = []
  for (let round = 0; round < rounds; round++) all.push(await measure())
  return all
}

interface Besides<T> {
  /** After each round of the creates that are made one at a time. */
  between?: () => Promise<void>
  /** Before the server is closed. */
  after: (bench: BenchServer) => Promise<T>
}

async function onServer<T>(
  poolSize: number,
  { between, after }: Besides<T>,
): Promise<{ results: ServerResults; extra: T }> {
  const title = poolSize > 0 ? `with a pool of ${poolSize}` : 'without a pool'
  const bench = await openBenchServer(0, poolSize)
  try {
    trustCertificatesOf(bench)
    const starts = new Map<number, StartTimes>()
    // The first start of a server reads the snapshot and fills the pool.
    await measureStarts(bench, { atOnce: 1, rounds: 3, poolSize: 0 })
    for (const atOnce of AT_ONCE) {
      await untilQuiet()
      step(`Creates ${title}, ${atOnce} at once`)
      const rounds = atOnce === 1 ? 30 : Math.ceil(40 / atOnce)
      const isAlone = atOnce === 1 && between !== undefined
      starts.set(
        atOnce,
        await measureStarts(bench, { atOnce, rounds, poolSize, ...(isAlone ? { between } : {}) }),
      )
    }
    await untilQuiet()
    step(`Official client ${title}`)
    const officialMs = await measureOfficialClient(bench, OFFICIAL_ROUNDS)
    await untilQuiet()
    step(`Creates and kills a second ${title}`)
    const throughput = await measureThroughput(bench, { workers: THROUGHPUT_WORKERS, forMs: THROUGHPUT_MS })
    const extra = await after(bench)
    return { results: { starts, officialMs, throughput }, extra }
  } finally {
    await bench.close()
  }
}
