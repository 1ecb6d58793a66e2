import type { MetricRange, TeamMetric } from '@sandbox/contract/rest/metrics'
import type { RunningSandboxes } from '../sandboxes/running.ts'

const SAMPLE_MS = 30_000
/** A week. */
const MAX_SAMPLES = 20_160
const MAX_TEAMS = 1_000

/** How many sandboxes each team had over time, in memory. Teams without sandboxes are not sampled. */
export class TeamMetrics {
  readonly #running: RunningSandboxes
  readonly #byTeam = new Map<string, TeamMetric[]>()
  readonly #starts = new Map<string, number>()
  readonly #unsubscribe: () => void
  #timer: NodeJS.Timeout | undefined

  constructor(running: RunningSandboxes) {
    this.#running = running
    this.#unsubscribe = running.onReserved((teamId) => {
      this.#starts.set(teamId, (this.#starts.get(teamId) ?? 0) + 1)
    })
  }

  start(): void {
    this.#timer = setInterval(() => this.sample(), SAMPLE_MS).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#unsubscribe()
  }

  /** Takes a sample of every team now. */
  sample(now = Date.now()): void {
    const { counts } = this.#running
    for (const teamId of new Set([...counts.keys(), ...this.#starts.keys()])) {
      const samples = this.#byTeam.get(teamId) ?? []
      if (samples.length === 0 && this.#byTeam.size >= MAX_TEAMS) continue
      samples.push({
        timestamp: new Date(now).toISOString(),
        timestampUnix: Math.floor(now / 1000),
        concurrentSandboxes: counts.get(teamId) ?? 0,
        sandboxStartRate: (this.#starts.get(teamId) ?? 0) / (SAMPLE_MS / 1000),
      })
      if (samples.length > MAX_SAMPLES) samples.shift()
      this.#byTeam.set(teamId, samples)
    }
    this.#starts.clear()
  }

  /** Oldest first; both ends inclusive. */
  read(teamId: string, { start = 0, end = Number.MAX_SAFE_INTEGER }: MetricRange): TeamMetric[] {
    const samples = this.#byTeam.get(teamId) ?? []
    return samples.filter(({ timestampUnix }) => timestampUnix >= start && timestampUnix <= end)
  }
}
