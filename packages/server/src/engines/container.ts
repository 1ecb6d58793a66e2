import { readFileSync } from 'node:fs'
import { ContainerEngine } from '@sandbox/host/engines/container/container-engine'
import type { EngineParts } from '@sandbox/host/machine'
import type { Runtime } from '../runtime.ts'

const CRUN = '/usr/bin/crun'
const INIT = ['/.e2b/bin/init'] as const
/** A sandbox may open this many files unless the machine allows fewer. */
const OPEN_FILES_MAX = 1_048_576

/** The hard limit of this process; raising it takes a capability that containers of the host may lack. */
function openFilesMax(): number {
  const line = /^Max open files\s+\S+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  return Math.min(OPEN_FILES_MAX, Number(line?.[1] ?? 1024))
}

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
