import { pino } from 'pino'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import type { Cell } from '../cells/cells.ts'
import { Foreground } from './foreground.ts'
import { Pool, type PoolOptions, type Stock } from './pool.ts'

const log = pino({ level: 'silent' })

/** As much of a cell as a pool sees: it can be released, and it can end by itself. */
class FakeCell {
  static opened: FakeCell[] = []
  readonly #exit = Promise.withResolvers<{ status: number; outOfMemory: boolean }>()
  readonly exited = this.#exit.promise
  readonly slot = { index: FakeCell.opened.length }
  releases = 0

  constructor() {
    FakeCell.opened.push(this)
  }

  async release(): Promise<void> {
    this.releases++
  }

  die(): void {
    this.#exit.resolve({ status: 1, outOfMemory: false })
  }
}

const stock: Stock = { snapshotId: 's', engine: 'container' }

let isTight = false
let foreground: Foreground
beforeEach(() => {
  vi.useFakeTimers()
  FakeCell.opened = []
  isTight = false
  foreground = new Foreground(50)
})
afterEach(() => vi.useRealTimers())

function poolOf(
  options: Partial<PoolOptions> = {},
  open = async (): Promise<FakeCell> => new FakeCell(),
): Pool {
  return new Pool(
    { min: 0, max: 4, idleMs: 60_000, ...options },
    { open: async () => (await open()) as unknown as Cell, foreground, isMemoryTight: () => isTight, log },
  )
}

test('an empty pool learns from the miss and has one for the next', async () => {
  const pool = poolOf()
  expect(pool.claim(stock)).toBeUndefined()
  await vi.advanceTimersByTimeAsync(200)
  expect(pool.size).toBe(1)
  expect(pool.claim(stock)).toBe(FakeCell.opened[0])
})

test('a clone on another engine is not handed out', async () => {
  const pool = poolOf()
  pool.claim({ ...stock, engine: 'gvisor' })
  await vi.advanceTimersByTimeAsync(200)
  expect(pool.size).toBe(1)
  expect(pool.claim(stock)).toBeUndefined()
  expect(pool.snapshotIds()).toEqual(new Set(['s']))
})

test('what is pooled of a snapshot that is gone is released', async () => {
  const pool = poolOf()
  for (const snapshotId of ['s', 'gone']) pool.claim({ ...stock, snapshotId })
  await vi.advanceTimersByTimeAsync(500)
  expect(pool.size).toBe(2)
  await pool.drop('gone')
  expect([pool.size, pool.snapshotIds()]).toEqual([1, new Set(['s'])])
  expect(FakeCell.opened.map(({ releases }) => releases).sort()).toEqual([0, 1])
})

test('it grows with misses up to its bound and never beyond', async () => {
  const pool = poolOf({ max: 3 })
  for (let miss = 0; miss < 10; miss++) pool.claim(stock)
  await vi.advanceTimersByTimeAsync(1_000)
  expect(pool.size).toBe(3)
})

test('nothing is filled while a create is in flight', async () => {
  const pool = poolOf()
  const create = Promise.withResolvers<void>()
  const running = foreground.run(() => create.promise)
  pool.claim(stock)
  await vi.advanceTimersByTimeAsync(5_000)
  expect(pool.size).toBe(0)
  create.resolve()
  await running
  await vi.advanceTimersByTimeAsync(49)
  expect(pool.size).toBe(0)
  await vi.advanceTimersByTimeAsync(2)
  expect(pool.size).toBe(1)
})

test('without demand it shrinks to its minimum', async () => {
  const pool = poolOf({ min: 1 })
  for (let miss = 0; miss < 4; miss++) pool.claim(stock)
  await vi.advanceTimersByTimeAsync(1_000)
  expect(pool.size).toBe(4)
  for (let minute = 1; minute <= 4; minute++) await pool.tend(Date.now() + minute * 60_000)
  expect(pool.size).toBe(1)
  expect(FakeCell.opened.filter((cell) => cell.releases === 1).length).toBe(3)
})

test('when memory is tight it gives everything back and does not refill', async () => {
  const pool = poolOf()
  pool.claim(stock)
  await vi.advanceTimersByTimeAsync(200)
  isTight = true
  await pool.tend()
  pool.claim(stock)
  await vi.advanceTimersByTimeAsync(1_000)
  expect(pool.size).toBe(0)
  expect(FakeCell.opened.every((cell) => cell.releases === 1)).toBe(true)
})

test('one that ends by itself is released once and not handed out', async () => {
  const pool = poolOf()
  pool.claim(stock)
  await vi.advanceTimersByTimeAsync(200)
  FakeCell.opened[0]!.die()
  await vi.advanceTimersByTimeAsync(0)
  expect(pool.claim(stock)).not.toBe(FakeCell.opened[0])
  expect(FakeCell.opened[0]!.releases).toBe(1)
})

test('a snapshot that does not open is left alone until it is asked for again', async () => {
  let tries = 0
  const pool = poolOf({}, async () => {
    tries++
    throw new Error('no')
  })
  pool.claim(stock)
  await vi.advanceTimersByTimeAsync(10_000)
  expect(tries).toBe(1)
  pool.claim(stock)
  await vi.advanceTimersByTimeAsync(10_000)
  expect(tries).toBe(2)
})

test('closing keeps what is pooled for the next daemon, or releases it', async () => {
  const kept = poolOf()
  kept.claim(stock)
  await vi.advanceTimersByTimeAsync(200)
  await kept.close(true)
  expect(FakeCell.opened[0]!.releases).toBe(0)
  const dropped = poolOf()
  dropped.claim(stock)
  await vi.advanceTimersByTimeAsync(200)
  await dropped.close(false)
  expect(FakeCell.opened[1]!.releases).toBe(1)
})
