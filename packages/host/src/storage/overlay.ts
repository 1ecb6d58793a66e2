/**
 * The root of a sandbox: overlay over layers and an upper whose ids are translated to the sandbox's own range.
 * All by system calls, about 1 ms.
 */
import { closeSync, mkdirSync, rmdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { idmappedTree } from '../linux/idmap.ts'
import { errorCode } from '../linux/libc.ts'
import { MS_NOATIME, MS_NODEV, mount, moveMount, unmountIfMounted } from '../linux/mount.ts'
import { withFileSystemIds } from './file-system-ids.ts'
import type { Upper } from './uppers.ts'

/** mount(2) takes one page of options. */
const maxOptionBytes = 4095
/**
 * Moving a directory of a lower layer works as on any file system (`redirect_dir`); files are copied up whole, so
 * that an upper made into a layer needs nothing but itself. Nothing is synced (`volatile`): what shall outlive the
 * machine its host syncs, and a first write to a file of a layer would else wait for a commit of all sandboxes' disks
 * (10 ms).
 */
const overlayOptions = 'index=off,metacopy=off,redirect_dir=on,volatile'

export interface RootOptions {
  /** Mount points of the layers, bottom to top (see `LayerStore.mount`). */
  layerPaths: readonly string[]
  /** Mount point of the agent's own layer, which lies above all others. */
  agentLayerPath: string
  upper: Upper
  /** User namespace whose id map the sandbox has (see linux/idmap.ts); the caller keeps it. */
  usernsFd: number
  /** A directory of this slot, short and neutral: the guest sees it in its mount table. Made if missing. */
  dir: string
}

export interface MountedRoot {
  /** `dir`/root */
  readonly path: string
  /** Idempotent. */
  unmount(): void
}

/** Throws SystemError, and a plain Error for too many layers; leaves nothing mounted then. */
export function mountRoot(options: RootOptions): MountedRoot {
  const lowers = [options.agentLayerPath, ...options.layerPaths.toReversed()]
  const names = lowers.map((_, index) => join(options.dir, `l${index}`))
  const upperName = join(options.dir, 'u')
  const path = join(options.dir, 'root')
  const data = [
    `lowerdir=${names.join(':')}`,
    `upperdir=${upperName}/upper`,
    `workdir=${upperName}/work`,
    overlayOptions,
  ].join(',')
  if (Buffer.byteLength(data) > maxOptionBytes)
    throw new Error(`${options.layerPaths.length} layers are too many for one overlay`)

  mkdirSync(path, { recursive: true, mode: 0o755 })
  const attached: string[] = []
  try {
    lowers.forEach((lower, index) => {
      attach(lower, names[index]!, options.usernsFd, true, attached)
    })
    attach(options.upper.path, upperName, options.usernsFd, false, attached)
    forgetVolatileMount(options.upper)
    // Overlay goes on working with the ids of whoever mounted it; they must lie in the range of the upper.
    const { uid, gid } = statSync(upperName)
    withFileSystemIds(uid, gid, () => mount('overlay', path, 'overlay', MS_NODEV | MS_NOATIME, data))
  } finally {
    // Overlay holds its own copies of these mounts; the names are only for the guest's mount table.
    for (const name of attached) detach(name)
  }
  return { path, unmount: () => unmountRoot(options.dir) }
}

/** What `MountedRoot.unmount` does, for a slot whose sandbox was started by an earlier daemon. Idempotent. */
export function unmountRoot(dir: string): void {
  while (unmountIfMounted(join(dir, 'root'))) {
    // A root mounted twice over itself goes layer by layer.
  }
}

/** The kernel refuses an upper that was mounted volatile before, as it cannot know that the machine has not crashed. */
function forgetVolatileMount(upper: Upper): void {
  rmSync(join(upper.path, 'work', 'work', 'incompat'), { recursive: true, force: true })
}

function attach(source: string, name: string, usernsFd: number, readOnly: boolean, attached: string[]): void {
  const tree = idmappedTree(source, usernsFd, { readOnly })
  try {
    mkdirSync(name, { recursive: true, mode: 0o755 })
    attached.push(name)
    moveMount(tree, name)
  } finally {
    closeSync(tree)
  }
}

function detach(name: string): void {
  unmountIfMounted(name)
  try {
    rmdirSync(name)
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error
  }
}
