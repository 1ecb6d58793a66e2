import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { removeStaleSeeds } from '@sandbox/host/engines/microvm/disk'
import { removeStaleBundles } from '@sandbox/host/engines/microvm/drives'
import { holdCurrentImage, removeStaleImages } from '@sandbox/host/engines/microvm/image/held-images'
import { MicrovmEngine } from '@sandbox/host/engines/microvm/microvm-engine'
import type { Monitor } from '@sandbox/host/engines/microvm/monitor'
import { QemuMonitor } from '@sandbox/host/engines/microvm/qemu'
import type { EngineParts } from '@sandbox/host/machine'
import type { Config } from '../config.ts'
import type { Runtime } from '../runtime.ts'
import { openFirecracker } from './firecracker.ts'
import { isForTests } from './for-tests.ts'

export const QEMU = '/usr/bin/qemu-system-x86_64'
/** An emulated processor is tens of times slower. */
const EMULATION_TIME_SCALE = 30
const PROBE_DISK_MIB = 256

/** Guest image and the monitors' own files, beside the images: several instances on one machine share them. */
export const microvmDir = (config: Pick<Config, 'imagesDir'>): string => join(config.imagesDir, 'microvm')

/** See native/open-read-only.c. */
export const openReadOnlyPath = (config: Pick<Config, 'imagesDir'>): string =>
  join(microvmDir(config), 'open-read-only.so')

/** The microvm engine, where a guest image and a monitor are installed. */
export function openMicrovmEngine(
  config: Config,
  runtime: Runtime,
  parts: EngineParts,
): MicrovmEngine | undefined {
  const { runDir, layers, uppers, cgroups, spareUidBase } = parts
  const image = holdCurrentImage(microvmDir(config))
  const agentLayer = layers.get(runtime.agentLayer.digest)
  const firecracker = openFirecracker(config, parts)
  const monitors = [...(firecracker ? [firecracker] : []), ...qemuMonitors(config, runDir)]
  if (!image || !agentLayer || monitors.length === 0) return undefined
  const seedsDir = join(uppers.mountPoint, '.seeds')
  const bundlesDir = join(microvmDir(config), 'bundles')
  removeStaleImages(microvmDir(config))
  removeStaleSeeds(seedsDir)
  removeStaleBundles(bundlesDir, (digest) => layers.get(digest) !== undefined)
  return new MicrovmEngine({
    runDir,
    shimPath: runtime.shimPath,
    monitors,
    image,
    agentLayer,
    cgroups,
    seedsDir,
    bundlesDir,
    mayEmulate: mayEmulate(config),
    probe: {
      take: async () => uppers.take(PROBE_DISK_MIB),
      give: async (upper) => uppers.release(upper),
      uidBase: spareUidBase,
    },
  })
}

/** Only where both are named: nobody gets an emulated machine by chance. */
const mayEmulate = ({ isolation, microvmMonitor }: Config): boolean =>
  isolation === 'microvm' && microvmMonitor === 'qemu'

/** None where QEMU is not installed, or there for tests alone and nobody has named the engine. */
export function qemuMonitors(config: Config, runDir: string, path = QEMU): Monitor[] {
  if (config.microvmMonitor === 'firecracker' || !existsSync(path)) return []
  if (config.isolation === 'auto' && isForTests(config, 'qemu')) return []
  const common = {
    path,
    openReadOnlyPath: openReadOnlyPath(config),
    devicesDir: join(runDir, 'machine-devices'),
  }
  const { timeScale } = config
  return [
    new QemuMonitor({ ...common, accelerator: 'kvm', timeScale }),
    ...(mayEmulate(config)
      ? [new QemuMonitor({ ...common, accelerator: 'tcg', timeScale: timeScale * EMULATION_TIME_SCALE })]
      : []),
  ]
}
