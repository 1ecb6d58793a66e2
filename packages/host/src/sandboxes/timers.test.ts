import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Clock, EndTimers } from './timers.ts'

/** A clock that only moves when told, with one pending callback at most per arming. */
class ManualClock implements Clock {
  #nowMs = 0
  readonly #pending = new Set<{ atMs: number; callback: () => void }>()
  armed = 0

  nowMs(): number {
    return this.#nowMs
  }

  after(delayMs: number, callback: () => void): () => void {
    if (delayMs > 2 ** 31 - 1) throw new Error(`delay ${delayMs} overflows setTimeout`)
    const entry = { atMs: this.#nowMs + delayMs, callback }
    this.armed++
    this.#pending.add(entry)
    return () => this.#pending.delete(entry)
  }

  get pending(): number {
    return this.#pending.size
  }

  advanceTo(atMs: number): void {
    for (;;) {
      const due = [...this.#pending].filter((entry) => entry.atMs <= atMs).sort((a, b) => a.atMs - b.atMs)[0]
      if (!due) break
      this.#pending.delete(due)
      this.#nowMs = due.atMs
      due.callback()
    }
    this.#nowMs = atMs
  }
}

const action = fc.oneof(
  fc.record({
    kind: fc.constant('set' as const),
    id: fc.integer({ min: 0, max: 9 }),
    inMs: fc.integer({ min: -50, max: 500 }),
  }),
  fc.record({ kind: fc.constant('clear' as const), id: fc.integer({ min: 0, max: 9 }) }),
  fc.record({ kind: fc.constant('advance' as const), byMs: fc.integer({ min: 0, max: 200 }) }),
)

test('ends fire exactly when due, in order, as a plain map with a scan would say', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 120 }), (actions) => {
      const clock = new ManualClock()
      const fired: { id: string; atMs: number }[] = []
      const timers = new EndTimers((id) => fired.push({ id, atMs: clock.nowMs() }), clock)
      const model = new Map<string, number>()
      for (const step of actions) {
        if (step.kind === 'set') {
          timers.set(String(step.id), clock.nowMs() + step.inMs)
          model.set(String(step.id), clock.nowMs() + step.inMs)
        } else if (step.kind === 'clear') {
          timers.clear(String(step.id))
          model.delete(String(step.id))
        } else {
          const before = clock.nowMs()
          const untilMs = before + step.byMs
          clock.advanceTo(untilMs)
          const due = [...model].filter(([, atMs]) => atMs <= untilMs)
          expect(fired.map((end) => end.id).sort()).toEqual(due.map(([id]) => id).sort())
          for (const end of fired) expect(end.atMs).toBe(Math.max(before, model.get(end.id)!))
          for (const [id] of due) model.delete(id)
          fired.length = 0
        }
        expect(timers.size).toBe(model.size)
        expect(clock.pending).toBeLessThanOrEqual(1)
      }
    }),
    { numRuns: 500 },
  )
})

test('an end further away than setTimeout reaches is waited for in pieces', () => {
  const clock = new ManualClock()
  const fired: string[] = []
  const timers = new EndTimers((id) => fired.push(id), clock)
  const farMs = 3 * 2 ** 31
  timers.set('far', farMs)
  clock.advanceTo(farMs - 1)
  expect(fired).toEqual([])
  clock.advanceTo(farMs)
  expect(fired).toEqual(['far'])
})

test('moving the same end many times keeps the queue small and fires once', () => {
  const clock = new ManualClock()
  const fired: string[] = []
  const timers = new EndTimers((id) => fired.push(id), clock)
  for (let move = 0; move < 10_000; move++) timers.set('a', 1000 + move)
  clock.advanceTo(20_000)
  expect(fired).toEqual(['a'])
})

test('nothing is called after close', () => {
  const clock = new ManualClock()
  const fired: string[] = []
  const timers = new EndTimers((id) => fired.push(id), clock)
  timers.set('a', 10)
  timers.close()
  clock.advanceTo(100)
  expect(fired).toEqual([])
  expect(clock.pending).toBe(0)
})

test('a clock that is set forward or back moves the ends with it', () => {
  let [ranMs, offsetMs] = [0, 0]
  let pending: { atMs: number; callback: () => void } | undefined
  const clock: Clock = {
    nowMs: () => ranMs + offsetMs,
    after(delayMs, callback) {
      const armed = { atMs: ranMs + delayMs, callback }
      pending = armed
      return () => {
        if (pending === armed) pending = undefined
      }
    },
  }
  const run = (forMs: number): void => {
    const untilMs = ranMs + forMs
    for (let next = pending; next && next.atMs <= untilMs; next = pending) {
      ranMs = next.atMs
      pending = undefined
      next.callback()
    }
    ranMs = untilMs
  }
  const fired: string[] = []
  const timers = new EndTimers((id) => fired.push(id), clock)
  timers.set('hour', 3_600_000)
  timers.set('later', 7_200_000)
  run(1_000)
  offsetMs = 3_600_000
  run(60_000)
  expect(fired).toEqual(['hour'])
  offsetMs = 0
  run(7_200_000 - ranMs - 1)
  expect(fired).toEqual(['hour'])
  run(1)
  expect(fired).toEqual(['hour', 'later'])
})
