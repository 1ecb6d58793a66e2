/** Bytes that may wait for one reader before the source of the output is paused. */
const QUEUE_LIMIT_BYTES = 256 * 1024

/** Marks that nothing happened for the time given to `next`. */
export const SILENCE = Symbol('silence')

/** A bounded queue between one source of events and one stream to a client. */
export class Subscription<Event> {
  readonly #onDrain: () => void
  readonly #onClose: () => void
  #queue: { event: Event; sizeBytes: number }[] = []
  #queuedBytes = 0
  #ended = false
  #failure: unknown
  #wake: (() => void) | undefined

  /**
   * @param onDrain called when a full queue has room again
   * @param onClose called once when the reader has gone
   */
  constructor(onDrain: () => void, onClose: () => void) {
    this.#onDrain = onDrain
    this.#onClose = onClose
  }

  /** True while the source should wait. */
  get isFull(): boolean {
    return this.#queuedBytes >= QUEUE_LIMIT_BYTES
  }

  push(event: Event, sizeBytes = 0): void {
    if (this.#ended) return
    this.#queue.push({ event, sizeBytes })
    this.#queuedBytes += sizeBytes
    this.#wake?.()
  }

  /** No more events: the reader gets what is queued and then the end. */
  end(): void {
    this.#ended = true
    this.#wake?.()
  }

  /** The reader gets `reason` as an error at once; what is queued is dropped. */
  fail(reason: unknown): void {
    if (this.#failure) return
    this.#failure = reason
    this.#ended = true
    this.#queue = []
    this.#queuedBytes = 0
    this.#wake?.()
    this.#onDrain()
  }

  /** The reader is gone. Idempotent. */
  close(): void {
    this.#queue = []
    this.#queuedBytes = 0
    this.#ended = true
    this.#wake?.()
    this.#onClose()
  }

  /**
   * The next event, undefined at the end, SILENCE when none came for `silenceMs`.
   *
   * @throws the reason given to `fail`
   */
  async next(silenceMs: number): Promise<Event | undefined | typeof SILENCE> {
    if (this.#queue.length === 0 && !this.#ended) await this.#wait(silenceMs)
    if (this.#failure) throw this.#failure
    const item = this.#queue.shift()
    if (!item) return this.#ended ? undefined : SILENCE
    const wasFull = this.isFull
    this.#queuedBytes -= item.sizeBytes
    if (wasFull && !this.isFull) this.#onDrain()
    return item.event
  }

  #wait(silenceMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        this.#wake = undefined
        resolve()
      }
      const timer = setTimeout(done, silenceMs)
      this.#wake = done
    })
  }
}

/**
 * Reads a subscription to its end for one client. `silence` makes the event that keeps an idle stream alive.
 * Ends and unsubscribes when `signal` aborts.
 */
export async function* follow<Event>(
  subscription: Subscription<Event>,
  options: { silenceMs: number; silence: () => Event; signal: AbortSignal },
): AsyncGenerator<Event, void> {
  const leave = (): void => {
    subscription.fail(options.signal.reason)
    subscription.close()
  }
  if (options.signal.aborted) leave()
  options.signal.addEventListener('abort', leave, { once: true })
  try {
    for (;;) {
      const event = await subscription.next(options.silenceMs)
      if (event === undefined) return
      yield event === SILENCE ? options.silence() : event
    }
  } finally {
    options.signal.removeEventListener('abort', leave)
    subscription.close()
  }
}

const DEFAULT_KEEPALIVE_SECONDS = 90

/** Silence in milliseconds after which a stream needs a keepalive, from `Keepalive-Ping-Interval` (seconds). */
export function keepaliveMs(headers: Headers): number {
  const seconds = Number(headers.get('Keepalive-Ping-Interval') ?? '')
  const valid = Number.isInteger(seconds) && seconds > 0 && seconds < 86_400
  return (valid ? seconds : DEFAULT_KEEPALIVE_SECONDS) * 1000
}
