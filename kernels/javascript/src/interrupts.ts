/**
 * Interrupts, seen from both threads. The main thread runs the user's code and may never look up from it, so a
 * second one listens for requests. It asks first, by a signal, which also reaches the programs that the code
 * started; code that does not yield is ended through V8.
 */
import { Session } from 'node:inspector'
import { setTimeout as delay } from 'node:timers/promises'

const ASKED = 0
const ANSWERED = 1
/** Code that yields answers within this time. */
const POLITE_MS = 50
const MAX_TERMINATIONS = 20

export const sharedCounters = (): SharedArrayBuffer => new SharedArrayBuffer(8)

/** Main thread: calls back for each interrupt as soon as the event loop turns. */
export function onInterrupt(shared: SharedArrayBuffer, act: () => void): void {
  const counters = new Int32Array(shared)
  process.on('SIGINT', () => {
    Atomics.store(counters, ANSWERED, Atomics.load(counters, ASKED))
    act()
  })
}

/** The other thread's side. */
export class Interrupter {
  readonly #counters: Int32Array
  #session: Session | undefined

  constructor(shared: SharedArrayBuffer) {
    this.#counters = new Int32Array(shared)
  }

  async interrupt(): Promise<void> {
    const asked = Atomics.add(this.#counters, ASKED, 1) + 1
    process.kill(0, 'SIGINT')
    for (let attempt = 0; attempt < MAX_TERMINATIONS; attempt += 1) {
      await delay(POLITE_MS)
      if (Atomics.load(this.#counters, ANSWERED) >= asked) return
      this.#terminate()
    }
  }

  #terminate(): void {
    if (this.#session === undefined) {
      this.#session = new Session()
      this.#session.connectToMainThread()
    }
    this.#session.post('Runtime.terminateExecution', () => undefined)
  }
}
