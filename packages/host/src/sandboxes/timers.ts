/**
 * Ends of life as one ordered queue with one armed timer. Nothing scans: the timer is armed for exactly the earliest
 * end. A binary heap with lazy deletion keeps set and clear at O(log n).
 */

/** A longer wait is armed in pieces: a clock that is set forward ends nothing later than this after its time. */
const LONGEST_DELAY_MS = 60_000

interface Item {
  readonly id: string
  readonly atMs: number
  readonly order: number
}

export interface Clock {
  nowMs(): number
  /** Calls back once after `delayMs`; returns a function that prevents it. */
  after(delayMs: number, callback: () => void): () => void
}

/** The machine's clock. Its timers do not keep the process alive. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs)
    timer.unref()
    return () => clearTimeout(timer)
  },
}

export class EndTimers {
  readonly #clock: Clock
  readonly #onEnd: (id: string) => void
  readonly #current = new Map<string, Item>()
  #heap: Item[] = []
  #order = 0
  #armedForMs: number | undefined
  #disarm: (() => void) | undefined

  /** @param onEnd called once per id, in the order of the ends; must not throw */
  constructor(onEnd: (id: string) => void, clock: Clock = systemClock) {
    this.#onEnd = onEnd
    this.#clock = clock
  }

  /** Sets or moves the end of `id`; an end in the past is due at once (in a later turn of the event loop). */
  set(id: string, atMs: number): void {
    const item = { id, atMs, order: this.#order++ }
    this.#current.set(id, item)
    push(this.#heap, item)
    if (this.#heap.length > 64 && this.#heap.length > 2 * this.#current.size) this.#compact()
    this.#arm()
  }

  clear(id: string): void {
    if (this.#current.delete(id)) this.#arm()
  }

  /** Disarms for good; nothing is called afterwards. */
  close(): void {
    this.#current.clear()
    this.#heap = []
    this.#arm()
  }

  get size(): number {
    return this.#current.size
  }

  #arm(): void {
    this.#dropReplaced()
    const nextMs = this.#heap[0]?.atMs
    if (nextMs === this.#armedForMs) return
    this.#disarm?.()
    this.#armedForMs = nextMs
    this.#disarm = undefined
    if (nextMs === undefined) return
    const delayMs = Math.min(Math.max(0, nextMs - this.#clock.nowMs()), LONGEST_DELAY_MS)
    this.#disarm = this.#clock.after(delayMs, () => this.#fire())
  }

  #fire(): void {
    this.#armedForMs = undefined
    this.#disarm = undefined
    const nowMs = this.#clock.nowMs()
    for (;;) {
      this.#dropReplaced()
      const next = this.#heap[0]
      if (!next || next.atMs > nowMs) break
      pop(this.#heap)
      this.#current.delete(next.id)
      this.#onEnd(next.id)
    }
    this.#arm()
  }

  /** Removes items from the top that were cleared or moved since. */
  #dropReplaced(): void {
    for (let top = this.#heap[0]; top && this.#current.get(top.id) !== top; top = this.#heap[0])
      pop(this.#heap)
  }

  #compact(): void {
    this.#heap = [...this.#current.values()].sort((a, b) => (isBefore(a, b) ? -1 : 1))
  }
}

const isBefore = (a: Item, b: Item): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)

function push(heap: Item[], item: Item): void {
  let at = heap.length
  heap.push(item)
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (!isBefore(item, heap[parent]!)) break
    heap[at] = heap[parent]!
    at = parent
  }
  heap[at] = item
}

function pop(heap: Item[]): void {
  const last = heap.pop()
  if (!last || heap.length === 0) return
  let at = 0
  for (;;) {
    let child = 2 * at + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++
    if (!isBefore(heap[child]!, last)) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = last
}
