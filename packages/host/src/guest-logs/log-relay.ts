import type { LogLine } from './log-line.ts'

/** Lines of one sandbox on their way to whoever collects them. */
export interface LogBatch {
  readonly sandboxId: string
  readonly lines: readonly LogLine[]
}

export interface RelayLimits {
  /** Lines a second, and at once after a silence. */
  readonly ofSandbox: { readonly perSecond: number; readonly burst: number }
  readonly ofAll: { readonly perSecond: number; readonly burst: number }
  /** Characters that wait for a collector; beyond it the oldest go. */
  readonly waitingCharacters: number
}

export const relayLimits: RelayLimits = {
  ofSandbox: { perSecond: 50, burst: 500 },
  ofAll: { perSecond: 2_000, burst: 10_000 },
  waitingCharacters: 8 * 2 ** 20,
}

/** Full buckets say nothing: they are forgotten when there are more than this. */
const MOST_IDLE_BUCKETS = 1_000

/** Passes lines of guests on: bounded in rate for each sandbox and for all, and in what waits. */
export class LogRelay {
  readonly #limits: RelayLimits
  readonly #nowMs: () => number
  readonly #all: Bucket
  readonly #bySandbox = new Map<string, Bucket>()
  readonly #waiting: { batch: LogBatch; size: number }[] = []
  readonly #collectors = new Set<() => void>()
  #waitingSize = 0
  #closed = false

  constructor(limits: RelayLimits = relayLimits, nowMs: () => number = () => performance.now()) {
    this.#limits = limits
    this.#nowMs = nowMs
    this.#all = new Bucket(limits.ofAll, nowMs())
  }

  /** Answers false, and takes nothing, when the sandbox or all together say too much. */
  offer(batch: LogBatch): boolean {
    const nowMs = this.#nowMs()
    const own = this.#bucketOf(batch.sandboxId, nowMs)
    if (!own.hasSome(nowMs) || !this.#all.hasSome(nowMs)) return false
    own.take(batch.lines.length)
    this.#all.take(batch.lines.length)
    const size = sizeOf(batch)
    this.#waiting.push({ batch, size })
    this.#waitingSize += size
    while (this.#waitingSize > this.#limits.waitingCharacters) {
      this.#waitingSize -= this.#waiting.shift()?.size ?? 0
    }
    for (const wake of this.#collectors) wake()
    return true
  }

  /** Each batch goes to one of those who collect. Ends with `signal` or `close`. */
  async *collect(signal: AbortSignal): AsyncGenerator<LogBatch> {
    let wake = (): void => {}
    const onChange = (): void => wake()
    this.#collectors.add(onChange)
    signal.addEventListener('abort', onChange)
    try {
      while (!this.#closed && !signal.aborted) {
        const next = this.#waiting.shift()
        if (next) {
          this.#waitingSize -= next.size
          yield next.batch
          continue
        }
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    } finally {
      signal.removeEventListener('abort', onChange)
      this.#collectors.delete(onChange)
    }
  }

  /** Ends all who collect. */
  close(): void {
    this.#closed = true
    for (const wake of this.#collectors) wake()
  }

  #bucketOf(sandboxId: string, nowMs: number): Bucket {
    const known = this.#bySandbox.get(sandboxId)
    if (known) return known
    if (this.#bySandbox.size >= MOST_IDLE_BUCKETS) {
      for (const [id, bucket] of this.#bySandbox) if (bucket.isFull(nowMs)) this.#bySandbox.delete(id)
    }
    const bucket = new Bucket(this.#limits.ofSandbox, nowMs)
    this.#bySandbox.set(sandboxId, bucket)
    return bucket
  }
}

/** May go into debt by one batch, which is bounded itself. */
class Bucket {
  readonly #rate: { readonly perSecond: number; readonly burst: number }
  #tokens: number
  #atMs: number

  constructor(rate: { readonly perSecond: number; readonly burst: number }, nowMs: number) {
    this.#rate = rate
    this.#tokens = rate.burst
    this.#atMs = nowMs
  }

  hasSome(nowMs: number): boolean {
    return this.#refilled(nowMs) > 0
  }

  isFull(nowMs: number): boolean {
    return this.#refilled(nowMs) >= this.#rate.burst
  }

  take(count: number): void {
    this.#tokens -= count
  }

  #refilled(nowMs: number): number {
    const gained = ((nowMs - this.#atMs) / 1000) * this.#rate.perSecond
    this.#tokens = Math.min(this.#rate.burst, this.#tokens + gained)
    this.#atMs = nowMs
    return this.#tokens
  }
}

function sizeOf({ lines }: LogBatch): number {
  let size = 0
  for (const { message, fields } of lines) {
    size += 64 + message.length
    for (const [key, value] of Object.entries(fields)) size += key.length + value.length
  }
  return size
}
