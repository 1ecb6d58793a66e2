import { existsSync, readFileSync, statfsSync } from 'node:fs'
import { type CpuInfo, cpus, machine } from 'node:os'
import { mountTable } from './linux/mount-table.ts'

/** What the machine is and how busy it is, for the operator; placement does not depend on it. */

export interface MachineFacts {
  cpuFamily: string
  cpuModel: string
  cpuModelName: string
  cpuArchitecture: string
}

export interface DiskUse {
  mountPoint: string
  device: string
  fileSystemType: string
  usedBytes: number
  totalBytes: number
}

interface Disk {
  mountPoint: string
  device: string
  fileSystemType: string
}

/** A share of too short a time says nothing: closer readings share one. */
const SHORTEST_SPAN_MS = 500

export class MachineGauge {
  readonly facts: MachineFacts = readFacts()
  readonly #disks: readonly Disk[]
  #before: readonly CpuInfo[] = cpus()
  #readAtMs = performance.now()
  #usedPct = 0

  /** @param paths that the host writes to; each names the file system that it lies on */
  constructor(paths: readonly string[]) {
    this.#disks = disksOf(paths)
  }

  /** 0 to 100, of all CPUs together, since it was read before. */
  cpuUsedPct(nowMs = performance.now()): number {
    if (nowMs - this.#readAtMs < SHORTEST_SPAN_MS) return this.#usedPct
    const now = cpus()
    const [before, after] = [sumOf(this.#before), sumOf(now)]
    const total = after.total - before.total
    this.#usedPct = total > 0 ? (100 * (total - (after.idle - before.idle))) / total : 0
    this.#before = now
    this.#readAtMs = nowMs
    return this.#usedPct
  }

  /** Those that are there still. */
  disks(): DiskUse[] {
    return this.#disks.flatMap((disk) => {
      if (!existsSync(disk.mountPoint)) return []
      const { blocks, bfree, bsize } = statfsSync(disk.mountPoint)
      return { ...disk, usedBytes: (blocks - bfree) * bsize, totalBytes: blocks * bsize }
    })
  }
}

function sumOf(readings: readonly CpuInfo[]): { idle: number; total: number } {
  const times = readings.map((cpu) => cpu.times)
  const idle = times.reduce((sum, time) => sum + time.idle, 0)
  const busy = times.reduce((sum, { user, nice, sys, irq }) => sum + user + nice + sys + irq, 0)
  return { idle, total: idle + busy }
}

function readFacts(): MachineFacts {
  const text = readFileSync('/proc/cpuinfo', 'utf8')
  const value = (name: string): string => new RegExp(`^${name}\\s*: (.*)$`, 'm').exec(text)?.[1]?.trim() ?? ''
  return {
    cpuFamily: value('cpu family'),
    cpuModel: value('model'),
    cpuModelName: value('model name'),
    cpuArchitecture: machine(),
  }
}

/** The file system of each path: what is mounted nearest above it. */
function disksOf(paths: readonly string[]): Disk[] {
  const table = mountTable()
  const disks = paths.flatMap((path) => {
    const above = table.filter(({ target }) => isWithin(path, target))
    const entry = above.toSorted((a, b) => a.target.length - b.target.length).at(-1)
    return entry ? { mountPoint: entry.target, device: entry.source, fileSystemType: entry.fileSystem } : []
  })
  return [...new Map(disks.map((disk) => [disk.mountPoint, disk])).values()]
}

const isWithin = (path: string, mountPoint: string): boolean =>
  mountPoint === '/' || path === mountPoint || path.startsWith(`${mountPoint}/`)
