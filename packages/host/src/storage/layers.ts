/**
 * Read-only layers of a machine: EROFS images named by the sha256 of their bytes, each mounted at most once however
 * many sandboxes use it. The kernel's mount table is the only record of what is mounted.
 */
import { createHash, randomBytes } from 'node:crypto'
import { closeSync, createReadStream, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs'
import { open, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { SystemError } from '../linux/libc.ts'
import { attachLoopDevice } from '../linux/loop-device.ts'
import { MS_NODEV, MS_RDONLY, mount, unmountIfMounted } from '../linux/mount.ts'
import { run } from '../linux/process.ts'
import type { Upper } from './uppers.ts'

const importTimeoutMs = 900_000
/** The kernel wants a block device; Node has no name for this errno. */
const ENOTBLK = 15
const imageSuffix = '.erofs'
const unfinishedPrefix = '.new-'
const doomedPrefix = '.doomed-'
/** Longer than anything takes from an import to the record of what it is for. */
const youngLayerMs = 3_600_000
const digestPattern = /^[0-9a-f]{64}$/
/** Fixed, so that equal trees differ in nothing that we add. */
const imageUuid = '00000000-0000-4000-8000-000000000000'

/** A read-only file-system layer: one EROFS image, named by the sha256 of its bytes. */
export interface Layer {
  readonly digest: string
  readonly imagePath: string
  readonly sizeBytes: number
}

export interface LayerStoreOptions {
  /** e.g. imagesDir/layers; may be shared by several instances. */
  layersDir: string
  /** e.g. runDir/layers: where this instance mounts them. */
  mountsDir: string
}

export class LayerStore {
  readonly #layersDir: string
  readonly #mountsDir: string

  constructor(options: LayerStoreOptions) {
    this.#layersDir = options.layersDir
    this.#mountsDir = options.mountsDir
    mkdirSync(this.#layersDir, { recursive: true })
    mkdirSync(this.#mountsDir, { recursive: true, mode: 0o700 })
  }

  /**
   * Makes a layer of a directory tree: owners, modes, times to the nanosecond, extended attributes, device nodes
   * (overlay's whiteouts) and hard links are kept as they are on disk. About 5 s a GiB. The tree must be still.
   */
  async importDirectory(directory: string): Promise<Layer> {
    const unfinished = join(
      this.#layersDir,
      `${unfinishedPrefix}${process.pid}-${randomBytes(6).toString('hex')}`,
    )
    try {
      await run(
        'mkfs.erofs',
        [
          '--quiet',
          '-zlz4',
          '-U',
          imageUuid,
          '--preserve-mtime',
          '-Eforce-inode-extended',
          unfinished,
          directory,
        ],
        { timeoutMs: importTimeoutMs },
      )
      return await this.#publish(unfinished)
    } finally {
      rmSync(unfinished, { force: true })
    }
  }

  /** Makes a layer of what a sandbox wrote. Its overlay must be unmounted or the upper a snapshot. */
  importUpper(upper: Upper): Promise<Layer> {
    return this.importDirectory(join(upper.path, 'upper'))
  }

  /** The layer of that digest, if this machine has it. */
  get(digest: string): Layer | undefined {
    const imagePath = this.#imagePath(digest)
    const stats = statSync(imagePath, { throwIfNoEntry: false })
    return stats && { digest, imagePath, sizeBytes: stats.size }
  }

  list(): Layer[] {
    return readdirSync(this.#layersDir)
      .filter((name) => name.endsWith(imageSuffix))
      .flatMap((name) => this.get(name.slice(0, -imageSuffix.length)) ?? [])
  }

  /**
   * The path at which the layer is mounted, mounting it if it is not yet (about 1 ms, else 0.02 ms). Throws when
   * this machine does not have the layer.
   */
  mount(digest: string): string {
    const target = this.#mountPath(digest)
    if (this.#isMounted(target)) return target
    const layer = this.get(digest)
    if (!layer) throw new Error(`this machine does not have layer ${digest}`)
    mkdirSync(target, { recursive: true, mode: 0o700 })
    mountImage(layer.imagePath, target)
    return target
  }

  /** Idempotent. Sandboxes that use the layer hold their own mounts of it and go on. */
  unmount(digest: string): void {
    const target = this.#mountPath(digest)
    unmountIfMounted(target)
    rmSync(target, { recursive: true, force: true })
  }

  unmountAll(): void {
    for (const name of readdirSync(this.#mountsDir)) this.unmount(name)
  }

  /** Reads the whole image: whether it still has the bytes its name says. */
  async verify(digest: string): Promise<boolean> {
    const layer = this.get(digest)
    return layer !== undefined && (await fileDigest(layer.imagePath)) === digest
  }

  /**
   * Deletes the layers that `needed` does not name, and what broken-off imports left. It is asked twice: a layer is out
   * of reach in between, so that whoever has come to need it meanwhile either says so the second time or has failed to
   * find it. Young layers stay: whoever imported one may not have said yet what for. Answers the digests that are gone.
   */
  async collectGarbage(
    needed: () => Promise<ReadonlySet<string>>,
    { youngMs = youngLayerMs }: { youngMs?: number } = {},
  ): Promise<string[]> {
    this.#removeUnfinished()
    const before = await needed()
    const isOld = ({ imagePath }: Layer): boolean => {
      const stats = statSync(imagePath, { throwIfNoEntry: false })
      // A file's time has fractions of a millisecond, the clock here has none: the file of now would be of later.
      return stats !== undefined && Date.now() - Math.floor(stats.mtimeMs) >= youngMs
    }
    for (const layer of this.list()) {
      if (before.has(layer.digest) || !isOld(layer)) continue
      renameSync(layer.imagePath, this.#doomedPath(layer.digest))
    }
    const doomed = readdirSync(this.#layersDir).filter((name) => name.startsWith(doomedPrefix))
    if (doomed.length === 0) return []
    const after = await needed()
    const gone: string[] = []
    for (const name of doomed) {
      const digest = name.slice(doomedPrefix.length)
      if (after.has(digest)) renameSync(this.#doomedPath(digest), this.#imagePath(digest))
      else {
        this.unmount(digest)
        rmSync(this.#doomedPath(digest), { force: true })
        gone.push(digest)
      }
    }
    return gone
  }

  /** Another instance may be importing into the same directory: only what is older than any import can be. */
  #removeUnfinished(): void {
    for (const name of readdirSync(this.#layersDir).filter((name) => name.startsWith(unfinishedPrefix))) {
      const path = join(this.#layersDir, name)
      const stats = statSync(path, { throwIfNoEntry: false })
      if (stats && Date.now() - stats.mtimeMs > 2 * importTimeoutMs) rmSync(path, { force: true })
    }
  }

  async #publish(unfinished: string): Promise<Layer> {
    const digest = await fileDigest(unfinished)
    const file = await open(unfinished, 'r')
    try {
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(unfinished, this.#imagePath(digest))
    const directory = await open(this.#layersDir, 'r')
    try {
      await directory.sync()
    } finally {
      await directory.close()
    }
    return { digest, imagePath: this.#imagePath(digest), sizeBytes: statSync(this.#imagePath(digest)).size }
  }

  /** By device number, which costs the same however many mounts the machine has. */
  #isMounted(target: string): boolean {
    const stats = statSync(target, { throwIfNoEntry: false })
    return stats !== undefined && stats.dev !== statSync(this.#mountsDir).dev
  }

  #imagePath(digest: string): string {
    return join(this.#layersDir, `${checkedDigest(digest)}${imageSuffix}`)
  }

  #doomedPath(digest: string): string {
    return join(this.#layersDir, `${doomedPrefix}${checkedDigest(digest)}`)
  }

  #mountPath(digest: string): string {
    return join(this.#mountsDir, checkedDigest(digest))
  }
}

/** Digests come from manifests; one that is no digest must not become a path. */
function checkedDigest(digest: string): string {
  if (!digestPattern.test(digest)) throw new Error(`not a layer digest: ${JSON.stringify(digest)}`)
  return digest
}

/** Straight from the file where the kernel can (Linux 6.12), else through a loop device. */
function mountImage(imagePath: string, target: string): void {
  const flags = MS_RDONLY | MS_NODEV
  try {
    mount(imagePath, target, 'erofs', flags)
  } catch (error) {
    if (!(error instanceof SystemError) || error.errno !== -ENOTBLK) throw error
    const device = attachLoopDevice(imagePath, { readOnly: true, directIo: true })
    try {
      mount(device.path, target, 'erofs', flags)
    } finally {
      closeSync(device.fd)
    }
  }
}

async function fileDigest(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(chunk)
  return hash.digest('hex')
}
