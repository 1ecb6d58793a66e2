/** The root of sandboxes whose files lie in an overlay of this machine. */
import { userNamespaceFor } from '../linux/idmap.ts'
import { mountRoot, type RootOptions, unmountRoot } from '../storage/overlay.ts'
import { prepareBootFiles } from './boot-files.ts'
import type { EngineStart } from './engine.ts'

export interface RootLayers {
  /** The agent's own layer: its digest, and where it is mounted. */
  agentLayer: { digest: string; path: string }
  /** Mounts a layer if need be; answers where (`LayerStore.mount`). */
  layerPath: (digest: string) => string
}

export type PreparedRoot = Omit<RootOptions, 'dir'>

/** Mounts the layers. The upper of a cold boot has its boot files afterwards. */
export async function prepareRoot(start: EngineStart, layers: RootLayers): Promise<PreparedRoot> {
  const { upper, slot, limits, memoryDir, agentLayer } = start
  const layerPaths = start.layers.map(({ digest }) => layers.layerPath(digest))
  if (memoryDir === undefined) prepareBootFiles(upper.path, layerPaths, limits.memoryMib)
  const agentLayerPath = agentLayer ? layers.layerPath(agentLayer.digest) : layers.agentLayer.path
  return { layerPaths, agentLayerPath, upper, usernsFd: await userNamespaceFor(slot.uidBase) }
}

/**
 * Does `work` while the root is mounted at `slotDir`/root. What runs from it takes a mount of its own; without this one
 * nothing has to be undone when it ends.
 */
export async function whileMounted<T>(
  root: PreparedRoot,
  slotDir: string,
  work: () => Promise<T>,
): Promise<T> {
  try {
    mountAt(root, slotDir)
    return await work()
  } finally {
    unmountRoot(slotDir)
  }
}

/** Overlay shows its paths to the guest as they were given: relative ones tell nothing of this machine. */
function mountAt(root: PreparedRoot, slotDir: string): void {
  const home = process.cwd()
  process.chdir(slotDir)
  try {
    mountRoot({ ...root, dir: '.' })
  } finally {
    process.chdir(home)
  }
}
