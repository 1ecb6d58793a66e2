import type { EngineName } from '@sandbox/host/engines/engine'
import { type BenchServer, openBenchServer } from './bench-server.ts'
import { trustCertificatesOf } from './official-client.ts'
import { type Series, sideBySide, type Way } from './side-by-side.ts'
import { measureStarts, noTimes, type StartTimes } from './starts.ts'

/** A server for each engine, all running at once, so that every round meets the same machine on each. */
export interface Lane {
  readonly name: EngineName
  readonly bench: BenchServer
}

/** The same work on each engine, next to what it costs at least. In milliseconds. */
export interface Measure {
  readonly title: string
  /** What each run carried, where a rate says more than a time. */
  readonly mib?: number
  readonly byEngine: ReadonlyMap<EngineName, { values: readonly number[]; floorMs: readonly number[] }>
}

const WARMING_ROUNDS = 2

/** Opens a server for each engine; the first start of a template captures its memory and fills the pool. */
export async function withLanes<T>(
  names: readonly EngineName[],
  poolSize: number,
  use: (lanes: readonly Lane[]) => Promise<T>,
): Promise<T> {
  const lanes: Lane[] = []
  try {
    for (const [index, name] of names.entries()) {
      const bench = await openBenchServer(index, poolSize, { E2B_ISOLATION: name })
      lanes.push({ name, bench })
      trustCertificatesOf(bench)
      await measureStarts(bench, { atOnce: 1, rounds: WARMING_ROUNDS, poolSize: 0 })
    }
    return await use(lanes)
  } finally {
    for (const { bench } of lanes) await bench.close()
  }
}

/**
 * Creates one sandbox at a time, on each engine in turn.
 * @param between after each, with the same engine
 */
export async function startsInTurn(
  lanes: readonly Lane[],
  options: { rounds: number; poolSize: number; between?: (name: EngineName) => Promise<void> },
): Promise<ReadonlyMap<EngineName, StartTimes>> {
  const { rounds, poolSize, between } = options
  const times = new Map(lanes.map(({ name }) => [name, noTimes()]))
  for (let round = 0; round < rounds; round++) {
    for (const { name, bench } of lanes) {
      // No pool is refilled while another engine is measured.
      if (poolSize > 0) for (const other of lanes) await other.bench.poolFilled(poolSize)
      await measureStarts(bench, { atOnce: 1, rounds: 1, poolSize }, times.get(name))
      await between?.(name)
    }
  }
  return times
}

/** Pairs what was measured of each engine with its floor. */
export const measureOf = (
  title: string,
  names: readonly EngineName[],
  valuesOf: (name: EngineName) => readonly number[],
  floorOf: (name: EngineName) => readonly number[],
): Measure => ({
  title,
  byEngine: new Map(names.map((name) => [name, { values: valuesOf(name), floorMs: floorOf(name) }])),
})

/** The same on each engine in turn, after the one floor of all. @param floor undefined where there is none */
export async function inTurn(
  title: string,
  rounds: number,
  floor: Way | undefined,
  ways: ReadonlyMap<EngineName, Way>,
): Promise<Measure> {
  const series = await sideBySide(rounds, { ...(floor && { floor }), ...Object.fromEntries(ways) })
  const valuesOf = (wanted: string): Series['values'] =>
    series.find(({ name }) => name === wanted)?.values ?? []
  return measureOf(title, [...ways.keys()], valuesOf, () => valuesOf('floor'))
}
