import { ContainerEngine } from '@sandbox/host/engines/container/container-engine'
import type { EngineParts } from '@sandbox/host/machine'
import type { Runtime } from '../runtime.ts'
import { INIT, openFilesMax } from './guest.ts'

const CRUN = '/usr/bin/crun'

/** The container engine as the set-up has prepared it. */
export function openContainerEngine(runtime: Runtime, parts: EngineParts): ContainerEngine {
  const { runDir, layers, uppers, cgroups, spareUidBase } = parts
  const { digest } = runtime.agentLayer
  return new ContainerEngine({
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
}
