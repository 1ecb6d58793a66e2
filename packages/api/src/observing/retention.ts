import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'

const EVERY_MS = 10_000
/** Each step is one small deletion. */
const MOST_STEPS = 20
const FINE_KEPT_MS = 60 * 60_000
const MOST_LOG_LINES = 500_000
/** Counting all lines takes a while, and their number changes slowly. */
const COUNT_EVERY_MS = 10 * 60_000

/** Deletes what is too old or too much of logs and metrics, a little at a time. */
export class Retention {
  readonly #store: Store
  readonly #keptMs: number
  readonly #logger: Logger
  #timer: NodeJS.Timeout | undefined
  #running: Promise<void> | undefined
  #countedAtMs = 0

  /** @param keptMs how long log lines and a sample a minute are kept */
  constructor(store: Store, keptMs: number, logger: Logger) {
    this.#store = store
    this.#keptMs = keptMs
    this.#logger = logger
  }

  start(): void {
    this.#timer = setInterval(() => {
      this.#running ??= this.sweep()
        .catch((error: unknown) => this.#logger.warn({ err: error }, 'old logs and metrics not deleted'))
        .finally(() => {
          this.#running = undefined
        })
    }, EVERY_MS).unref()
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    await this.#running
  }

  /** Deletes some of what has to go; more of it goes the next time. */
  async sweep(nowMs = Date.now(), mostLogLines = MOST_LOG_LINES): Promise<void> {
    const { sandboxLogs, sandboxMetrics, teamMetrics } = this.#store
    await repeat(() => sandboxMetrics.deleteSomeBefore('fine', nowMs - FINE_KEPT_MS))
    await repeat(() => sandboxMetrics.deleteSomeBefore('coarse', nowMs - this.#keptMs))
    await repeat(() => sandboxLogs.deleteSomeBefore(nowMs - this.#keptMs))
    if (nowMs - this.#countedAtMs < COUNT_EVERY_MS) return
    this.#countedAtMs = nowMs
    await teamMetrics.deleteBefore(nowMs - this.#keptMs)
    await repeat(() => sandboxLogs.deleteSomeBeyond(mostLogLines))
  }
}

/** Between two steps others get their turn. */
async function repeat(step: () => Promise<boolean>): Promise<void> {
  for (let steps = 0; steps < MOST_STEPS && (await step()); steps += 1) {
    await new Promise((resolve) => setImmediate(resolve))
  }
}
