/** Lets background work wait until nobody's create is in flight and none has been for a moment. */
export class Foreground {
  readonly #quietMs: number
  readonly #waiting: (() => void)[] = []
  #inFlight = 0
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor(quietMs = 50) {
    this.#quietMs = quietMs
  }

  /** Runs a create; background work waits for its end. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    this.#inFlight++
    clearTimeout(this.#timer)
    try {
      return await work()
    } finally {
      this.#inFlight--
      this.#arm()
    }
  }

  /** Resolves when it has been quiet; at once after `close`. */
  whenQuiet(): Promise<void> {
    if (this.#closed) return Promise.resolve()
    return new Promise((resolve) => {
      this.#waiting.push(resolve)
      if (this.#waiting.length === 1) this.#arm()
    })
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
    for (const wake of this.#waiting.splice(0)) wake()
  }

  #arm(): void {
    if (this.#inFlight > 0 || this.#waiting.length === 0) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      for (const wake of this.#waiting.splice(0)) wake()
    }, this.#quietMs)
    this.#timer.unref()
  }
}
