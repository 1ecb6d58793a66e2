import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ContainerEngine } from '@sandbox/host/engines/container/container-engine'
import type { EngineReport } from '@sandbox/host/engines/engine'
import { CgroupRoot } from '@sandbox/host/linux/cgroup'
import type { EngineParts, OpenedEngine } from '@sandbox/host/machine'
import { prepareRunDir, removeRunDir } from '@sandbox/host/run-dir'
import { LayerStore } from '@sandbox/host/storage/layers'
import { UpperStore } from '@sandbox/host/storage/uppers'
import type { Logger } from 'pino'
import type { Config } from './config.ts'
import type { Runtime } from './runtime.ts'

const CRUN = '/usr/bin/crun'
const INIT = ['/.e2b/bin/init'] as const
/** A sandbox may open this many files unless the machine allows fewer. */
const OPEN_FILES_MAX = 1_048_576
const MIB_PER_GIB = 1024

/** The hard limit of this process; raising it takes a capability that containers of the host may lack. */
function openFilesMax(): number {
  const line = /^Max open files\s+\S+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  return Math.min(OPEN_FILES_MAX, Number(line?.[1] ?? 1024))
}

/** The container engine as the set-up has prepared it. */
export async function openContainerEngine(runtime: Runtime, parts: EngineParts): Promise<OpenedEngine> {
  const { runDir, layers, uppers, cgroups, spareUidBase } = parts
  const { digest } = runtime.agentLayer
  const engine = new ContainerEngine({
    runDir,
    shimPath: runtime.shimPath,
    crunPath: CRUN,
    criu: runtime.criu,
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
  return {
    engine,
    canRestore: runtime.criu !== undefined,
    onSlotReady: async (slot) => engine.prepare(slot),
  }
}

/** The strongest usable engine, or the one that the configuration names. */
export const openConfiguredEngine = (
  _config: Config,
  runtime: Runtime,
  parts: EngineParts,
): Promise<OpenedEngine> => openContainerEngine(runtime, parts)

/** Names that no server uses, so that a probe can run beside one. */
const PROBE_INSTANCE = 'e2bprb'

/** Boots something in each installed engine; leaves nothing. */
export async function probeEngines(
  config: Config,
  runtime: Runtime,
  _log: Logger,
): Promise<{ name: string; report: EngineReport }[]> {
  const runDir = `${config.runDir}-probe`
  prepareRunDir(runDir)
  const layers = new LayerStore({
    layersDir: join(config.imagesDir, 'layers'),
    mountsDir: join(runDir, 'layers'),
  })
  const cgroups = new CgroupRoot({ instance: PROBE_INSTANCE })
  const uppers = await UpperStore.open({
    file: join(config.stateDir, 'probe.btrfs'),
    mountPoint: join(runDir, 'uppers'),
    sizeMib: MIB_PER_GIB,
  })
  try {
    const spareUidBase = config.uidBase - 65_536
    const { engine } = await openContainerEngine(runtime, { runDir, layers, uppers, cgroups, spareUidBase })
    return [{ name: engine.name, report: await engine.probe() }]
  } finally {
    await uppers.close()
    await cgroups.remove()
    removeRunDir(runDir)
  }
}
