import { readFileSync, statfsSync } from 'node:fs'
import { availableParallelism } from 'node:os'

const MIB = 1024 * 1024

/** Body of `GET /metrics`; sizes in bytes unless the name says otherwise. */
export interface Metrics {
  readonly ts: number
  readonly cpu_count: number
  readonly cpu_used_pct: number
  readonly mem_total_mib: number
  readonly mem_used_mib: number
  readonly mem_total: number
  readonly mem_used: number
  readonly mem_cache: number
  readonly disk_used: number
  readonly disk_total: number
}

interface CpuSample {
  readonly usedSeconds: number
  readonly atSeconds: number
}

/** Measures the sandbox from inside: its cgroup where one is visible, else what /proc tells. */
export class MetricsReader {
  #last: CpuSample = { usedSeconds: 0, atSeconds: 0 }

  read(): Metrics {
    const memory = readMemory()
    const cpuCount = readCpuCount()
    const disk = statfsSync('/')
    const diskTotal = disk.blocks * disk.bsize
    return {
      ts: Math.floor(Date.now() / 1000),
      cpu_count: cpuCount,
      cpu_used_pct: this.#cpuPercent(cpuCount),
      mem_total_mib: Math.floor(memory.total / MIB),
      mem_used_mib: Math.floor(memory.used / MIB),
      mem_total: memory.total,
      mem_used: memory.used,
      mem_cache: memory.cache,
      disk_used: diskTotal - disk.bavail * disk.bsize,
      disk_total: diskTotal,
    }
  }

  /** Of all cores together since the last call, in percent with two decimals. */
  #cpuPercent(cpuCount: number): number {
    const sample = { usedSeconds: readCpuSeconds(), atSeconds: performance.now() / 1000 }
    const elapsed = sample.atSeconds - this.#last.atSeconds
    const used = sample.usedSeconds - this.#last.usedSeconds
    const first = this.#last.atSeconds === 0
    this.#last = sample
    if (first || elapsed <= 0 || used < 0) return 0
    return Math.round(Math.min(100, (used / elapsed / cpuCount) * 100) * 100) / 100
  }
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}

const CGROUP = '/sys/fs/cgroup'

function field(text: string | undefined, name: string): number | undefined {
  const match = new RegExp(`^${name}:?\\s+(\\d+)`, 'm').exec(text ?? '')
  return match ? Number(match[1]) : undefined
}

function readMemory(): { total: number; used: number; cache: number } {
  const info = read('/proc/meminfo')
  const kib = (name: string): number => (field(info, name) ?? 0) * 1024
  const machine = kib('MemTotal')
  const limit = Number(read(`${CGROUP}/memory.max`) ?? read(`${CGROUP}/memory/memory.limit_in_bytes`))
  const current = Number(read(`${CGROUP}/memory.current`) ?? read(`${CGROUP}/memory/memory.usage_in_bytes`))
  if (Number.isFinite(limit) && limit > 0 && limit < machine && Number.isFinite(current)) {
    const stat = read(`${CGROUP}/memory.stat`) ?? read(`${CGROUP}/memory/memory.stat`)
    const cache = field(stat, 'file') ?? field(stat, 'total_cache') ?? 0
    return { total: limit, used: Math.max(0, current - cache), cache }
  }
  const cache = kib('Cached') + kib('SReclaimable')
  return { total: machine, used: Math.max(0, machine - kib('MemFree') - kib('Buffers') - cache), cache }
}

function readCpuCount(): number {
  const [quota, period] = (read(`${CGROUP}/cpu.max`) ?? '').split(/\s+/).map(Number)
  if (quota && period) return Math.max(1, Math.round(quota / period))
  const oldQuota = Number(read(`${CGROUP}/cpu/cpu.cfs_quota_us`))
  const oldPeriod = Number(read(`${CGROUP}/cpu/cpu.cfs_period_us`))
  if (oldQuota > 0 && oldPeriod > 0) return Math.max(1, Math.round(oldQuota / oldPeriod))
  return availableParallelism()
}

const TICKS_PER_SECOND = 100

function readCpuSeconds(): number {
  const usage = field(read(`${CGROUP}/cpu.stat`), 'usage_usec')
  if (usage !== undefined) return usage / 1e6
  const nanoseconds = Number(read(`${CGROUP}/cpuacct/cpuacct.usage`))
  if (nanoseconds > 0) return nanoseconds / 1e9
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = (read('/proc/stat') ?? '')
    .split('\n', 1)[0]!
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number)
  return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND
}
