import type { Logger } from 'pino'
import type { Cell } from '../cells/cells.ts'
import type { EngineName } from '../engines/engine.ts'
import type { Foreground } from './foreground.ts'

/**
 * Sandboxes that were restored ahead, answered once, and wait frozen. Per snapshot and engine the pool grows with
 * starts that found it empty, shrinks while nobody asks, and gives all back when the machine runs short of memory.
 * It fills one at a time, never while a create is in flight.
 */

export interface PoolOptions {
  /** Kept for every snapshot that was ever asked for. */
  min: number
  /** Bound per snapshot; 0 turns the pool off. */
  max: number
  /** Without demand for this long, half of what a snapshot keeps is given back. */
  idleMs: number
}

export interface PoolParts {
  /** Restores one, waits for its agent and freezes it. */
  open: (stock: Stock) => Promise<Cell>
  foreground: Foreground
  isMemoryTight: () => boolean
  log: Logger
}

/** What a pooled sandbox is a clone of, and what it runs on. */
export interface Stock {
  readonly snapshotId: string
  readonly engine: EngineName
}

interface Shelf {
  readonly stock: Stock
  target: number
  lastDemandMs: number
  readonly cells: Cell[]
}

export class Pool {
  readonly #options: PoolOptions
  readonly #parts: PoolParts
  readonly #shelves = new Map<string, Shelf>()
  #filling: Promise<void> | undefined
  #closed = false

  constructor(options: PoolOptions, parts: PoolParts) {
    this.#options = options
    this.#parts = parts
  }

  get size(): number {
    let size = 0
    for (const shelf of this.#shelves.values()) size += shelf.cells.length
    return size
  }

  /** Snapshots that something is pooled of, or should be. */
  snapshotIds(): ReadonlySet<string> {
    return new Set([...this.#shelves.values()].map(({ stock }) => stock.snapshotId))
  }

  /** Takes one for a start, still frozen, and learns from the demand. */
  claim(stock: Stock, nowMs = Date.now()): Cell | undefined {
    if (this.#options.max === 0 || this.#closed) return undefined
    const shelf = this.#shelf(stock)
    shelf.lastDemandMs = nowMs
    const cell = shelf.cells.shift()
    if (!cell) shelf.target = Math.min(this.#options.max, Math.max(1, this.#options.min, shelf.target * 2))
    this.#fill()
    return cell
  }

  /** Takes in one that an earlier daemon left. It is frozen. */
  adopt(stock: Stock, cell: Cell): void {
    const shelf = this.#shelf(stock)
    shelf.target = Math.min(this.#options.max, Math.max(shelf.target, shelf.cells.length + 1))
    shelf.lastDemandMs = Date.now()
    this.#add(stock, cell)
  }

  /** Gives the room of one pooled sandbox to a create that found none. */
  async yieldOne(): Promise<boolean> {
    for (const shelf of this.#shelves.values()) {
      const cell = shelf.cells.pop()
      if (!cell) continue
      shelf.target = Math.min(shelf.target, shelf.cells.length)
      await cell.release()
      return true
    }
    return false
  }

  /** Slow upkeep: what nobody asked for shrinks, and everything goes when memory is tight. */
  async tend(nowMs = Date.now()): Promise<void> {
    const isTight = this.#parts.isMemoryTight()
    for (const [key, shelf] of this.#shelves) {
      if (isTight) shelf.target = 0
      else if (nowMs - shelf.lastDemandMs >= this.#options.idleMs) {
        shelf.target = Math.max(this.#options.min, Math.floor(shelf.target / 2))
        shelf.lastDemandMs = nowMs
      }
      const surplus = shelf.cells.splice(shelf.target)
      await Promise.all(surplus.map((cell) => cell.release()))
      if (shelf.target === 0 && shelf.cells.length === 0 && !isTight) this.#shelves.delete(key)
    }
    this.#fill()
  }

  /** Releases what is pooled of a snapshot that is gone. */
  async drop(snapshotId: string): Promise<void> {
    for (const [key, { stock, cells }] of this.#shelves) {
      if (stock.snapshotId !== snapshotId) continue
      this.#shelves.delete(key)
      await Promise.all(cells.splice(0).map((cell) => cell.release()))
    }
  }

  /** Stops filling. With `keep` what is pooled stays for the next daemon. */
  async close(keep: boolean): Promise<void> {
    this.#closed = true
    await this.#filling
    if (!keep) await this.drain()
  }

  /** Gives everything back; what is asked for afterwards is pooled again. */
  async drain(): Promise<void> {
    const cells = [...this.#shelves.values()].flatMap((shelf) => shelf.cells.splice(0))
    this.#shelves.clear()
    await Promise.all(cells.map((cell) => cell.release()))
  }

  #shelf(stock: Stock): Shelf {
    const key = `${stock.engine} ${stock.snapshotId}`
    let shelf = this.#shelves.get(key)
    if (!shelf) {
      shelf = { stock, target: this.#options.min, lastDemandMs: Date.now(), cells: [] }
      this.#shelves.set(key, shelf)
    }
    return shelf
  }

  #add(stock: Stock, cell: Cell): void {
    const { cells } = this.#shelf(stock)
    cells.push(cell)
    cell.exited.then(async () => {
      const at = cells.indexOf(cell)
      if (at < 0) return
      cells.splice(at, 1)
      this.#parts.log.warn({ event: 'pool.lost', ...stock, slot: cell.slot.index })
      await cell
        .release()
        .catch((error: unknown) => this.#parts.log.error({ event: 'pool.release', err: error }))
    })
  }

  #fill(): void {
    if (this.#filling || this.#closed) return
    this.#filling = this.#fillAll().finally(() => {
      this.#filling = undefined
    })
  }

  async #fillAll(): Promise<void> {
    for (let next = this.#neediest(); next && !this.#closed; next = this.#neediest()) {
      await this.#parts.foreground.whenQuiet()
      if (this.#closed || this.#parts.isMemoryTight()) return
      try {
        const startedMs = performance.now()
        const cell = await this.#parts.open(next)
        this.#add(next, cell)
        const tookMs = Math.round(performance.now() - startedMs)
        this.#parts.log.info({ event: 'pool.filled', ...next, slot: cell.slot.index, tookMs })
      } catch (error) {
        // Demand asks again; until then this snapshot is left alone rather than tried in a loop.
        this.#shelf(next).target = this.#shelf(next).cells.length
        this.#parts.log.warn({ event: 'pool.failed', ...next, err: error })
      }
    }
  }

  /** What was asked for last, among those with less than they should have. */
  #neediest(): Stock | undefined {
    let found: Shelf | undefined
    for (const shelf of this.#shelves.values()) {
      if (shelf.cells.length >= shelf.target) continue
      if (!found || shelf.lastDemandMs > found.lastDemandMs) found = shelf
    }
    return found?.stock
  }
}
