import { readFileSync } from 'node:fs'

/** Memory of one sandbox in MB (10^6 bytes): all that its processes see, what is its own, and with its part of what is shared. */
export interface MemoryUse {
  readonly rssMb: number
  readonly ussMb: number
  readonly pssMb: number
  /** What is no file's page and counts for the sandbox's limit, whichever of its processes map it. */
  readonly chargedMb: number
  readonly processes: number
}

const BYTES_PER_KIB = 1024

/** Adds up all processes of a cgroup; one that ends meanwhile counts for nothing. @param cgroupPath of the sandbox */
export function sandboxMemory(cgroupPath: string): MemoryUse {
  const pids = readFileSync(`${cgroupPath}/cgroup.procs`, 'utf8').split('\n').filter(Boolean)
  const rollups = pids.flatMap((pid) => readIfThere(`/proc/${pid}/smaps_rollup`))
  const sum = (...names: string[]): number =>
    rollups.flatMap((text) => names.map((name) => kib(text, name))).reduce((a, b) => a + b, 0)
  return {
    rssMb: (sum('Rss') * BYTES_PER_KIB) / 1e6,
    ussMb: (sum('Private_Clean', 'Private_Dirty') * BYTES_PER_KIB) / 1e6,
    pssMb: (sum('Pss') * BYTES_PER_KIB) / 1e6,
    chargedMb: chargedBytes(readFileSync(`${cgroupPath}/memory.stat`, 'utf8')) / 1e6,
    processes: pids.length,
  }
}

/** Of a cgroup's `memory.stat`: `anon` on cgroup v2, `rss` on v1; `shmem` on both. */
function chargedBytes(stat: string): number {
  const value = (name: string): number => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(stat)?.[1] ?? 0)
  return value('anon') + value('rss') + value('shmem')
}

/** Memory that the machine could still give, in MB. */
export const availableMb = (): number =>
  (kib(readFileSync('/proc/meminfo', 'utf8'), 'MemAvailable') * BYTES_PER_KIB) / 1e6

/** Resident memory of a process, in MB. */
export const residentMb = (pid: number): number =>
  (kib(readFileSync(`/proc/${pid}/status`, 'utf8'), 'VmRSS') * BYTES_PER_KIB) / 1e6

const kib = (text: string, name: string): number =>
  Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0)

function readIfThere(path: string): string[] {
  try {
    return [readFileSync(path, 'utf8')]
  } catch {
    return []
  }
}
