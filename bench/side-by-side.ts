import { ms, table } from './report.ts'
import { percentile } from './statistics.ts'

/** Several ways to do the same, measured in turn, so that all of them meet the same machine. */

export interface Series {
  readonly name: string
  /** In milliseconds. */
  readonly values: readonly number[]
}

/** The first series is the baseline of the others. */
export interface Comparison {
  readonly title: string
  readonly series: readonly Series[]
  /** What each run carried, where a rate says more than a time. */
  readonly mib?: number
}

/** Does it once; a number is the time it took in milliseconds, otherwise the call is timed. */
export type Way = () => Promise<unknown>

/** @param ways the baseline first; each runs once before it counts */
export async function sideBySide(rounds: number, ways: Readonly<Record<string, Way>>): Promise<Series[]> {
  const all = Object.entries(ways).map(([name, way]) => ({ name, way, values: [] as number[] }))
  for (let round = -1; round < rounds; round++) {
    for (const { way, values } of all) {
      const startedMs = performance.now()
      const answer = await way()
      const tookMs = typeof answer === 'number' ? answer : performance.now() - startedMs
      if (round >= 0) values.push(tookMs)
    }
  }
  return all.map(({ name, values }) => ({ name, values }))
}

const p50 = (comparison: Comparison, index: number): number =>
  percentile(comparison.series[index]!.values, 0.5)

/** Medians and tails, each against the baseline of its comparison. */
export function comparisonTable(comparisons: readonly Comparison[]): string {
  const hasRate = comparisons.some(({ mib }) => mib !== undefined)
  const head = ['', 'p50 ms', 'p99 ms', ...(hasRate ? ['MiB/s'] : []), 'of the baseline', 'runs']
  const rows = comparisons.flatMap((comparison) => {
    const baselineMs = p50(comparison, 0)
    return comparison.series.map(({ name, values }, index) => {
      const medianMs = percentile(values, 0.5)
      const rate = comparison.mib === undefined ? '' : ((comparison.mib * 1000) / medianMs).toFixed(0)
      return [
        `${comparison.title}: ${index === 0 ? `**${name}**` : name}`,
        fine(medianMs),
        fine(percentile(values, 0.99)),
        ...(hasRate ? [rate] : []),
        `${(medianMs / baselineMs).toFixed(2)}×`,
        String(values.length),
      ]
    })
  })
  return table(head, rows)
}

const fine = (value: number): string => (value < 10 ? value.toFixed(2) : ms(value))
