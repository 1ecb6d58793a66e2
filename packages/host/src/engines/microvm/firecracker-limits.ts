/**
 * Rate limiters of a jailed machine: token buckets of Firecracker's, on the writable disk and on the network. They are
 * part of a captured machine's state, so a restore under other limits sets them anew before the guest goes on.
 */
import { copyFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { MachinePlan } from './monitor.ts'

/** Undefined does not limit. */
export interface RateLimits {
  /** Of the writable disk, reads and writes together. */
  diskBytesPerSecond?: number
  /** In each direction. */
  networkBytesPerSecond?: number
}

/** A request to change a device. */
export interface DeviceChange {
  path: string
  body: Readonly<Record<string, unknown>>
}

/** Large enough for Firecracker's clock, which fills buckets every 100 ms, and small enough to be no second of grace. */
const BUCKET_MS = 250
const MS_PER_SECOND = 1000
/**
 * A bucket has room for the largest operation: what is larger is let through against a wait, and a wait of less than a
 * millisecond never ends (github.com/firecracker-microvm/firecracker/issues/6212). Of a network it is a frame of 64 KiB
 * with its headers, of a disk what Linux puts into one request unless root inside raises `max_sectors_kb`.
 */
const LARGEST_FRAME_BYTES = 65_562
const LARGEST_REQUEST_BYTES = 1280 * 1024
/** A bucket without size is none. */
const UNLIMITED = { size: 0, refill_time: 0 }

export const driveId = (index: number): string => `drive${index}`
export const NETWORK_ID = 'net'

/** Fields of a drive as it is configured or changed. */
export const diskLimiter = ({ diskBytesPerSecond }: RateLimits): Record<string, unknown> => ({
  rate_limiter: { bandwidth: bucketOf(diskBytesPerSecond, LARGEST_REQUEST_BYTES) },
})

/** Fields of a network interface as it is configured or changed. */
export const networkLimiters = ({ networkBytesPerSecond }: RateLimits): Record<string, unknown> => {
  const bandwidth = bucketOf(networkBytesPerSecond, LARGEST_FRAME_BYTES)
  return { rx_rate_limiter: { bandwidth }, tx_rate_limiter: { bandwidth } }
}

function bucketOf(
  bytesPerSecond: number | undefined,
  leastBytes: number,
): { size: number; refill_time: number } {
  if (bytesPerSecond === undefined) return UNLIMITED
  const size = Math.max(Math.ceil((bytesPerSecond * BUCKET_MS) / MS_PER_SECOND), leastBytes)
  return { size, refill_time: Math.ceil((size * MS_PER_SECOND) / bytesPerSecond) }
}

/** Says in a machine's directory under which limits it runs. */
export function recordLimits(directory: string, limits: RateLimits): void {
  writeFileSync(limitsIn(directory), JSON.stringify(limits), { mode: 0o444 })
}

/** Says in a memory directory what its machine was captured under; the settings may have changed since its start. */
export function keepLimits(directory: string, memoryDir: string): void {
  if (existsSync(limitsIn(directory))) copyFileSync(limitsIn(directory), limitsIn(memoryDir))
}

/** What has to be changed of a machine that was captured under other limits; nothing where they are the same. */
export function limitChanges({ memoryDir, drives, tap }: MachinePlan, limits: RateLimits): DeviceChange[] {
  if (memoryDir === undefined) return []
  const path = limitsIn(memoryDir)
  const captured = existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as RateLimits) : {}
  const changes: DeviceChange[] = []
  if (captured.diskBytesPerSecond !== limits.diskBytesPerSecond)
    for (const [index, { readOnly }] of drives.entries()) {
      if (readOnly) continue
      const id = driveId(index)
      changes.push({ path: `/drives/${id}`, body: { drive_id: id, ...diskLimiter(limits) } })
    }
  if (tap !== undefined && captured.networkBytesPerSecond !== limits.networkBytesPerSecond)
    changes.push({
      path: `/network-interfaces/${NETWORK_ID}`,
      body: { iface_id: NETWORK_ID, ...networkLimiters(limits) },
    })
  return changes
}

const limitsIn = (directory: string): string => join(directory, 'limits.json')
