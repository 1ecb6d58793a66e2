/**
 * Content of `/proc/meminfo` in a sandbox whose kernel is the machine's: host and agent write it. Always of the same
 * length, so that it can be replaced in place. Both sizes in KiB; `free` is what the sandbox may still take.
 */
export function memoryInfo({ totalKib, freeKib }: { totalKib: number; freeKib: number }): string {
  const usedKib = totalKib - freeKib
  const sizes: Record<string, number> = {
    MemTotal: totalKib,
    MemFree: freeKib,
    MemAvailable: freeKib,
    Buffers: 0,
    Cached: 0,
    SwapCached: 0,
    Active: usedKib,
    Inactive: 0,
    SwapTotal: 0,
    SwapFree: 0,
    AnonPages: usedKib,
    Shmem: 0,
    Slab: 0,
    SReclaimable: 0,
    SUnreclaim: 0,
  }
  const lines = Object.entries(sizes).map(
    ([name, kib]) => `${`${name}:`.padEnd(16)}${String(Math.round(kib)).padStart(8)} kB\n`,
  )
  return lines.join('')
}
