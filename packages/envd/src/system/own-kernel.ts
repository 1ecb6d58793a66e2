/** What a sandbox with a kernel of its own needs besides; where the kernel is shared it may not, and needs it not. */
import { closeSync, openSync, writeSync } from 'node:fs'
import koffi from 'koffi'

const CLOCK_REALTIME = 0
const RNDRESEEDCRNG = 0x5207
const NANOSECONDS_PER_MS = 1_000_000n
/** Asking takes some milliseconds; a clock that is nearer than this is left to itself. */
const CLOCK_TOLERANCE_MS = 20

const libc = koffi.load(null)
const c = {
  clock_settime: libc.func('int clock_settime(int clock, void *time)'),
  ioctl: libc.func('int ioctl(int fd, unsigned long request, void *argument)'),
  syncfs: libc.func('int syncfs(int fd)'),
}

/** Sets the clock, which stood still while the machine did. @returns whether it was set */
export function setClock(nowMs: number): boolean {
  if (Math.abs(Date.now() - nowMs) <= CLOCK_TOLERANCE_MS) return false
  const time = Buffer.alloc(16)
  time.writeBigInt64LE(BigInt(Math.floor(nowMs / 1000)), 0)
  time.writeBigInt64LE(BigInt(Math.floor(nowMs % 1000)) * NANOSECONDS_PER_MS, 8)
  return Number(c.clock_settime(CLOCK_REALTIME, time)) === 0
}

/**
 * Makes the kernel's generator the clone's own: clones of one memory would give out the same numbers until it reseeds
 * itself, which takes up to minutes. A shared kernel mixes the seed in as it does anybody's.
 */
export function reseedKernel(seed: Buffer): void {
  const fd = openSync('/dev/urandom', 'w')
  try {
    writeSync(fd, seed)
    c.ioctl(fd, RNDRESEEDCRNG, null)
  } finally {
    closeSync(fd)
  }
}

/** Writes what the kernel holds back of the root's files: the disk may be kept without the memory. */
export function syncFiles(): void {
  const fd = openSync('/', 'r')
  try {
    c.syncfs(fd)
  } finally {
    closeSync(fd)
  }
}
