import { ms, table } from './report.ts'
import { type Comparison, comparisonTable, type Series } from './side-by-side.ts'
import type { StartTimes } from './starts.ts'
import { percentile } from './statistics.ts'

/** Milliseconds of each round, by the way in which one and the same kernel was driven inside the sandbox. */
interface ByWay {
  readonly raw: readonly number[]
  readonly websocket: readonly number[]
  readonly service: readonly number[]
}

export interface ProbeTimes {
  readonly sum: { readonly end: ByWay; readonly result: ByWay }
  readonly prints: ByWay
  /** The same with `flush=True`: a message for each line. */
  readonly flushed: ByWay
  /** `1+1` in all contexts at once, until the last has answered. */
  readonly parallel: ByWay
}

export interface ParallelTimes {
  readonly count: number
  readonly createdMs: number
  /** A second of sleep in one, and in all at once. */
  readonly oneSleepMs: number
  readonly allSleepMs: number
}

/** Everything that one run of `bench interpreter` has measured. */
export interface InterpreterResults {
  readonly machine: string
  readonly probe: ProbeTimes
  /** From outside: the thin client and the official one, through the edge. */
  readonly outside: readonly Series[]
  readonly outsidePrints: readonly Series[]
  readonly parallel: ParallelTimes
  readonly fresh: StartTimes
  readonly pooled: StartTimes
}

export const PRINTS = 10_000

export const CONTEXTS = 20

/** The results of `bench interpreter` as markdown: the same code in several ways, contexts, goals. */
export function interpreterReport(results: InterpreterResults): string {
  const { probe, outside, outsidePrints, parallel, fresh, pooled } = results
  const prints = `${PRINTS.toLocaleString('en')} prints`
  return [
    `Machine: ${results.machine}.`,
    comparisonTable([
      compare('`1+1` to the result', probe.sum.result),
      compare('`1+1` to the end', probe.sum.end, outside),
      compare(prints, probe.prints, outsidePrints),
      compare(`${prints}, flushed`, probe.flushed),
      compare(`\`1+1\` in ${CONTEXTS} contexts at once, to the last end`, probe.parallel),
      {
        title: 'Create to first result',
        series: [
          { name: 'no pool', values: fresh.resultMs },
          { name: 'pool', values: pooled.resultMs },
        ],
      },
    ]),
    table(
      [`${parallel.count} contexts at once`, 'ms', 'against'],
      [
        ['create', ms(parallel.createdMs), ''],
        ['one second of sleep in one', ms(parallel.oneSleepMs), '1.00×'],
        [
          'one second of sleep in all',
          ms(parallel.allSleepMs),
          `${(parallel.allSleepMs / parallel.oneSleepMs).toFixed(2)}×`,
        ],
      ],
    ),
    goalsTable(results),
  ].join('\n\n')
}

const compare = (title: string, ways: ByWay, outside: readonly Series[] = []): Comparison => ({
  title,
  series: [
    { name: 'raw `jupyter_client`', values: ways.raw },
    { name: "Jupyter Server's websocket", values: ways.websocket },
    { name: 'our service', values: ways.service },
    ...outside.map(({ name, values }) => ({ name: `from outside, ${name}`, values })),
  ],
})

function goalsTable({ probe, fresh, pooled }: InterpreterResults): string {
  const middle = (values: readonly number[]): number => percentile(values, 0.5)
  const addedMs = middle(probe.sum.end.service) - middle(probe.sum.end.raw)
  const goal = (name: string, boundMs: number, valueMs: number): string[] => [
    name,
    `≤ ${boundMs} ms`,
    `${valueMs.toFixed(valueMs < 10 ? 2 : 0)} ms`,
    valueMs <= boundMs ? 'met' : '**missed**',
  ]
  return table(
    ['Goal, p50', 'bound', 'measured', ''],
    [
      goal('Our service over raw `jupyter_client`', 1, addedMs),
      goal('Create to first result, no pool', 150, middle(fresh.resultMs)),
      goal('Create to first result, pool', 40, middle(pooled.resultMs)),
    ],
  )
}
