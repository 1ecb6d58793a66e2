import type { Criu } from './engines/container/checkpoint.ts'
import { ContainerEngine } from './engines/container/container-engine.ts'
import type { OpenEngine } from './machine.ts'

/** What setup made for the container engine. */
export interface ContainerEngineFiles {
  /** The compiled shim. */
  shimPath: string
  crunPath: string
  /** Without one every start boots. */
  criu: Criu | undefined
  /** Digest of the agent's own layer, which the layer store has. */
  agentLayerDigest: string
  /** First process of a sandbox and its arguments. */
  initCommand: readonly string[]
  /** Highest number of open files of one process; not above what this process may set. */
  openFilesMax: number
}

/** The container engine on the parts of a machine. */
export function containerEngine(files: ContainerEngineFiles): OpenEngine {
  return async ({ runDir, layers, uppers, cgroups, spareUidBase }) => {
    const { agentLayerDigest: digest, shimPath, crunPath, criu, initCommand, openFilesMax } = files
    const engine = new ContainerEngine({
      runDir,
      shimPath,
      crunPath,
      criu,
      agentLayer: { digest, path: layers.mount(digest) },
      layerPath: (layer) => layers.mount(layer),
      cgroups,
      initCommand,
      openFilesMax,
      probe: {
        take: async () => uppers.take(PROBE_DISK_MIB),
        give: async (upper) => uppers.release(upper),
        uidBase: spareUidBase,
      },
    })
    return { engine, onSlotReady: async (slot) => engine.prepare(slot), canRestore: criu !== undefined }
  }
}

const PROBE_DISK_MIB = 64
