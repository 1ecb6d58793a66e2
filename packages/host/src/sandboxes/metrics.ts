import type { Logger } from 'pino'
import type { Cell } from '../cells/cells.ts'
import type { UpperSource } from '../cells/parts.ts'

/** What sandboxes use now, from their cgroups and disk quota. */

export interface SandboxUsage {
  sandboxId: string
  atMs: number
  cpuCount: number
  /** 0 to 100, of all its CPUs together, since it was read before or since it started. */
  cpuUsedPct: number
  memoryUsedBytes: number
  memoryTotalBytes: number
  memoryCacheBytes: number
  diskUsedBytes: number
  diskTotalBytes: number
}

export interface MetricsParts {
  cells: () => Iterable<readonly [sandboxId: string, cell: Cell]>
  uppers: Pick<UpperSource, 'usageBytes'>
  log: Pick<Logger, 'warn'>
}

interface CpuReading {
  atMs: number
  cpuUsec: number
  usedPct: number
}

/** Readings closer together than this share a result: a share of too short a time says nothing. */
const SHORTEST_SPAN_MS = 500

export class Metrics {
  readonly #parts: MetricsParts
  readonly #readings = new WeakMap<Cell, CpuReading>()
  readonly #memoryKills = new WeakMap<Cell, number>()

  constructor(parts: MetricsParts) {
    this.#parts = parts
  }

  /** Sandboxes that end meanwhile are left out. @param ids empty for all */
  async read(ids: readonly string[]): Promise<SandboxUsage[]> {
    const wanted = new Set(ids)
    const readings = [...this.#parts.cells()]
      .filter(([id]) => wanted.size === 0 || wanted.has(id))
      .map(([id, cell]) => this.#usage(id, cell).catch(() => undefined))
    return (await Promise.all(readings)).filter((usage) => usage !== undefined)
  }

  async #usage(sandboxId: string, cell: Cell): Promise<SandboxUsage> {
    const { cpuCount, memoryMib, diskMib } = cell.limits
    const { cpuUsec, memoryBytes, memoryCacheBytes, oomKills } = await cell.usage()
    this.#tellKills(sandboxId, cell, oomKills)
    return {
      sandboxId,
      atMs: Date.now(),
      cpuCount,
      cpuUsedPct: this.#cpuUsedPct(cell, cpuUsec),
      memoryUsedBytes: Math.max(0, memoryBytes - memoryCacheBytes),
      memoryTotalBytes: memoryMib * 2 ** 20,
      memoryCacheBytes,
      diskUsedBytes: this.#parts.uppers.usageBytes(cell.upper),
      diskTotalBytes: diskMib * 2 ** 20,
    }
  }

  /** Processes that were ended for the memory of their sandbox, which lives on: nobody else tells of them. */
  #tellKills(sandboxId: string, cell: Cell, kills: number): void {
    const before = this.#memoryKills.get(cell) ?? 0
    this.#memoryKills.set(cell, kills)
    if (kills > before)
      this.#parts.log.warn({ event: 'sandbox.memoryKills', sandboxId, kills: kills - before })
  }

  #cpuUsedPct(cell: Cell, cpuUsec: number): number {
    const atMs = performance.now()
    const before = this.#readings.get(cell)
    if (before && atMs - before.atMs < SHORTEST_SPAN_MS) return before.usedPct
    const spanMs = before ? atMs - before.atMs : Math.max(1, Date.now() - cell.startedAtMs)
    // What ran before in this slot's group is not counted: its counters start with the slot's occupant.
    const usedUsec = Math.max(0, cpuUsec - (before?.cpuUsec ?? 0))
    const share = (usedUsec / 1000 / spanMs / cell.limits.cpuCount) * 100
    const usedPct = Math.round(Math.min(100, share) * 100) / 100
    this.#readings.set(cell, { atMs, cpuUsec, usedPct })
    return usedPct
  }
}
