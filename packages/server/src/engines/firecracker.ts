import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { FirecrackerMonitor } from '@sandbox/host/engines/microvm/firecracker'
import type { RateLimits } from '@sandbox/host/engines/microvm/firecracker-limits'
import type { EngineParts } from '@sandbox/host/machine'
import type { Config } from '../config.ts'

export const FIRECRACKER_VERSION = '1.16.1'

/** Beside the images, so that several instances on one machine share it. */
export const firecrackerDir = (config: Pick<Config, 'imagesDir'>): string =>
  join(config.imagesDir, 'engines', 'firecracker', FIRECRACKER_VERSION)

export interface FirecrackerPaths {
  firecracker: string
  jailer: string
  /** See native/mount-into.c. */
  mountInto: string
}

/** The programs that the operator names, else those that were installed here. */
export function firecrackerPaths(config: Config): FirecrackerPaths {
  const dir = firecrackerDir(config)
  return {
    firecracker: config.firecracker || join(dir, 'firecracker'),
    jailer: config.jailer || join(dir, 'jailer'),
    mountInto: join(config.imagesDir, 'microvm', 'mount-into'),
  }
}

/** Undefined where it is not installed, or another monitor is asked for. */
export function openFirecracker(
  config: Config,
  { runDir, cgroups }: EngineParts,
): FirecrackerMonitor | undefined {
  const { firecracker, jailer, mountInto } = firecrackerPaths(config)
  if (config.microvmMonitor === 'qemu') return undefined
  if (![firecracker, jailer, mountInto].every((path) => existsSync(path))) return undefined
  return new FirecrackerMonitor({
    firecrackerPath: firecracker,
    jailerPath: jailer,
    mountIntoPath: mountInto,
    jailsDir: join(runDir, 'jails'),
    cgroupVersion: cgroups.layout.version,
    rateLimits: rateLimitsOf(config),
    timeScale: config.timeScale,
  })
}

const BYTES_PER_MBIT = 125_000
const BYTES_PER_MIB = 2 ** 20

const rateLimitsOf = ({ sandboxMbit, sandboxDiskMibps }: Config): RateLimits => ({
  ...(sandboxDiskMibps === 0 ? {} : { diskBytesPerSecond: sandboxDiskMibps * BYTES_PER_MIB }),
  ...(sandboxMbit === 0 ? {} : { networkBytesPerSecond: sandboxMbit * BYTES_PER_MBIT }),
})
