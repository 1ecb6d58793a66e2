import type { MetricRange, TeamMetric } from '@sandbox/contract/rest/metrics'
import type { TeamMetricRow } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { RunningSandboxes } from '../sandboxes/running.ts'

const SAMPLE_MS = 30_000

/** How many sandboxes each team had over time, kept in the store. Teams without sandboxes are not sampled. */
export class TeamMetrics {
  readonly #running: RunningSandboxes
  readonly #store: Store
  readonly #logger: Logger
  readonly #starts = new Map<string, number>()
  readonly #unsubscribe: () => void
  #timer: NodeJS.Timeout | undefined

  constructor(running: RunningSandboxes, store: Store, logger: Logger) {
    this.#running = running
    this.#store = store
    this.#logger = logger
    this.#unsubscribe = running.onReserved((teamId) => {
      this.#starts.set(teamId, (this.#starts.get(teamId) ?? 0) + 1)
    })
  }

  start(): void {
    this.#timer = setInterval(() => void this.sample(), SAMPLE_MS).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
    this.#unsubscribe()
  }

  /** Takes a sample of every team now. Never rejects. */
  async sample(now = Date.now()): Promise<void> {
    const { counts } = this.#running
    const samples = [...new Set([...counts.keys(), ...this.#starts.keys()])].map((teamId) => ({
      teamId,
      at: now,
      concurrentSandboxes: counts.get(teamId) ?? 0,
      startRate: (this.#starts.get(teamId) ?? 0) / (SAMPLE_MS / 1000),
    }))
    this.#starts.clear()
    if (samples.length === 0) return
    await this.#store.teamMetrics
      .insert(samples)
      .catch((error: unknown) => this.#logger.warn({ err: error }, 'metrics of teams not written'))
  }

  /** Oldest first; both ends inclusive. */
  async read(teamId: string, { start = 0, end }: MetricRange): Promise<TeamMetric[]> {
    const toMs = end === undefined ? Number.MAX_SAFE_INTEGER : end * 1000 + 999
    return (await this.#store.teamMetrics.read(teamId, start * 1000, toMs)).map(toMetric)
  }
}

const toMetric = ({ at, concurrentSandboxes, startRate }: TeamMetricRow): TeamMetric => ({
  timestamp: new Date(at).toISOString(),
  timestampUnix: Math.floor(at / 1000),
  concurrentSandboxes,
  sandboxStartRate: startRate,
})
