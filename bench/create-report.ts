import type { AliveMemory, AliveReport } from './alive.ts'
import type { BootTimes, RestoreTimes } from './floor.ts'
import { ms, table } from './report.ts'
import type { StartTimes, Throughput } from './starts.ts'
import { percentile, summarize } from './statistics.ts'

/** Everything that one run of `bench create` has measured. */
export interface CreateResults {
  /** As it was when the run began. */
  readonly machine: string
  /** Bare restores, each right after a create without a pool, so that both meet the same machine. */
  readonly floor: readonly RestoreTimes[]
  readonly copying: readonly RestoreTimes[]
  readonly cold: readonly BootTimes[]
  readonly fresh: ServerResults
  readonly pooled: ServerResults
  readonly alive: AliveReport
}

export interface ServerResults {
  /** By how many were created at once. */
  readonly starts: ReadonlyMap<number, StartTimes>
  readonly officialMs: readonly number[]
  readonly throughput: Throughput
}

/** The results of `bench create` as markdown: times against the floor, throughput, memory, goals. */
export function createReport(results: CreateResults): string {
  const floorMs = percentile(agentMs(results.floor), 0.5)
  return [
    `Machine: ${results.machine}.`,
    timesTable(results, floorMs),
    memoryTable(results),
    goalsTable(results, floorMs),
  ].join('\n\n')
}

const agentMs = (times: readonly RestoreTimes[]): number[] => times.map((time) => time.agentMs)

function timesTable(results: CreateResults, floorMs: number): string {
  const row = (name: string, values: readonly number[]): string[] => {
    const { count, p50, p95 } = summarize(values)
    return [name, ms(p50), ms(p95), `${(p50 / floorMs).toFixed(2)}×`, String(count)]
  }
  const { floor, copying, cold } = results
  return table(
    ['', 'p50 ms', 'p95 ms', 'of the floor', 'runs'],
    [
      row('**Floor**: bare restore, copy-on-write, to the agent', agentMs(floor)),
      row('Bare restore, copying (stock CRIU), to the agent', agentMs(copying)),
      row('Cold boot (`crun run`) to the agent', agentMs(cold)),
      row(
        'Cold boot until the interpreter is ready',
        cold.map(({ servicesMs }) => servicesMs),
      ),
      ...serverRows('No pool', results.fresh, row),
      ...serverRows('Pool', results.pooled, row),
    ],
  )
}

type Row = (name: string, values: readonly number[]) => string[]

function serverRows(title: string, results: ServerResults, row: Row): string[][] {
  const alone = results.starts.get(1)!
  return [
    row(`${title}: create answered by the API`, alone.createdMs),
    ...[...results.starts].flatMap(([atOnce, times]) => {
      const how = atOnce === 1 ? 'one at a time' : `${atOnce} at once`
      return [
        row(`${title}: create to agent, ${how}`, times.agentMs),
        row(`${title}: create to first result, ${how}`, times.resultMs),
      ]
    }),
    row(`${title}: create to first result, official client over TLS`, results.officialMs),
    row(`${title}: agent asked directly`, alone.directHealthMs),
    row(`${title}: kill`, alone.killMs),
  ]
}

function memoryTable({ alive, fresh, pooled }: CreateResults): string {
  const row = (name: string, memory: AliveMemory): string[] => [
    name,
    ...[memory.ussMb, memory.pssMb, memory.machineMb].map((value) => value.toFixed(1)),
    memory.processes.toFixed(0),
  ]
  const rate = ({ throughput }: ServerResults): string =>
    `${throughput.perSecond.toFixed(1)} a second (${throughput.count} sandboxes)`
  return [
    table(
      [`Per sandbox, ${alive.count} alive`, 'USS MB', 'PSS MB', 'of the machine MB', 'processes'],
      [row('after the start', alive.started), row('after `1+1`', alive.used)],
    ),
    `Create, agent answer and kill, sustained: ${rate(fresh)} without a pool, ${rate(pooled)} with one.`,
  ].join('\n\n')
}

function goalsTable({ fresh, pooled, alive }: CreateResults, floorMs: number): string {
  const p50 = (results: ServerResults): number => percentile(results.starts.get(1)!.agentMs, 0.5)
  const overheadMs = p50(fresh) - floorMs
  const goal = (name: string, bound: string, value: string, isMet: boolean): string[] => [
    name,
    bound,
    value,
    isMet ? 'met' : '**missed**',
  ]
  const { perSecond } = fresh.throughput
  const { ussMb } = alive.started
  return table(
    ['Goal', 'bound', 'measured', ''],
    [
      goal('Create to agent, no pool, p50', '≤ 100 ms', `${ms(p50(fresh))} ms`, p50(fresh) <= 100),
      goal('Create to agent, pool, p50', '≤ 15 ms', `${ms(p50(pooled))} ms`, p50(pooled) <= 15),
      goal('Creates sustained with kills, no pool', '≥ 15 /s', `${perSecond.toFixed(1)} /s`, perSecond >= 15),
      goal('USS of a started sandbox', '≤ 25 MB', `${ussMb.toFixed(1)} MB`, ussMb <= 25),
      goal('API, host and edge over the bare restore', '≤ 15 ms', `${ms(overheadMs)} ms`, overheadMs <= 15),
    ],
  )
}
