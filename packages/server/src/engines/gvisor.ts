import { accessSync, constants, existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { GvisorEngine } from '@sandbox/host/engines/gvisor/gvisor-engine'
import { type Runsc, runscVersion } from '@sandbox/host/engines/gvisor/runsc'
import type { EngineParts } from '@sandbox/host/machine'
import type { Config } from '../config.ts'
import type { Runtime } from '../runtime.ts'
import { INIT, openFilesMax } from './guest.ts'

/** Module version of runsc that the engine is made for, and what its binary calls itself. */
export const RUNSC_VERSION = 'v0.0.0-20260905035102-160fafc42237'

/** Beside the images, so that several instances on one machine share it. */
export const runscPath = (config: Pick<Config, 'imagesDir'>): string =>
  join(config.imagesDir, 'engines', 'gvisor', RUNSC_VERSION, 'runsc')

/** Releases and packages name themselves by a date, modules by a time that begins with one. Undefined: neither. */
const releaseDate = (version: string): number | undefined => {
  const digits = /(?:^|^release-|-)(20\d{6})/.exec(version)?.[1]
  return digits === undefined ? undefined : Number(digits)
}

/** Older versions have no sandbox network on current kernels. */
export const isCurrent = (version: string): boolean =>
  (releaseDate(version) ?? 0) >= (releaseDate(RUNSC_VERSION) ?? 0)

/** The binary that the engine uses: the one installed here, else one on the PATH that is not older. */
export async function findRunsc(config: Pick<Config, 'imagesDir'>): Promise<Runsc | undefined> {
  const installed = runscPath(config)
  if (existsSync(installed)) return { path: installed, version: RUNSC_VERSION }
  return await runscOnPath()
}

/** @returns undefined when there is none, or only an older one */
export async function runscOnPath(): Promise<Runsc | undefined> {
  for (const dir of (process.env.PATH ?? '').split(delimiter).filter(Boolean)) {
    const path = join(dir, 'runsc')
    if (!isExecutable(path)) continue
    const version = await runscVersion(path).catch(() => '')
    if (isCurrent(version)) return { path, version }
  }
  return undefined
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** The gVisor engine, where runsc is installed. */
export async function openGvisorEngine(
  config: Config,
  runtime: Runtime,
  parts: EngineParts,
): Promise<GvisorEngine | undefined> {
  const runsc = await findRunsc(config)
  if (!runsc) return undefined
  const { runDir, layers, uppers, cgroups, spareUidBase } = parts
  const { digest } = runtime.agentLayer
  return new GvisorEngine({
    runDir,
    shimPath: runtime.shimPath,
    runsc,
    agentLayer: { digest, path: layers.mount(digest) },
    layerPath: (layerDigest) => layers.mount(layerDigest),
    cgroups,
    initCommand: INIT,
    openFilesMax: openFilesMax(),
    probe: {
      take: async () => uppers.take(64),
      give: async (upper) => uppers.release(upper),
      uidBase: spareUidBase,
    },
  })
}
