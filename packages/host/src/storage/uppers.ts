/**
 * The writable parts of all sandboxes of one machine: subvolumes with a hard cap in one btrfs, which lies in a sparse
 * file. Some are made ahead: taking one is synchronous and never waits for the disk (0.05 ms), while making one may
 * wait for a commit (0.2 ms, sometimes 15). Uppers outlive a reboot: paused sandboxes and snapshots of sandboxes keep
 * theirs. What runs is written when the kernel likes, copies and what was `sync`ed are on the disk.
 */
import { randomBytes } from 'node:crypto'
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { renameDurably, syncFileSystem } from '../linux/durable.ts'
import { fileSystemOf } from '../linux/file-system.ts'
import { SystemError } from '../linux/libc.ts'
import { attachLoopDevice, type LoopDevice } from '../linux/loop-device.ts'
import { MS_NOATIME, MS_NODEV, mount, umount2 } from '../linux/mount.ts'
import { mountTable } from '../linux/mount-table.ts'
import { run } from '../linux/process.ts'
import {
  createSubvolume,
  createSubvolumeInBackground,
  deleteSubvolumeInBackground,
  enableQuota,
  limitSubvolume,
  quotaUsageBytes,
  snapshotSubvolumeInBackground,
  subvolumeId,
} from './btrfs.ts'

const mebibyte = 1024 * 1024
const defaultReadyCount = 8
const countTimeoutMs = 120_000
/** A copy of an upper that holds this share of the cap is counted file by file: what was deleted since is no debt. */
const countedShare = 0.25
/** However full the original was, its copy can still write a little: else it could not even clean up. */
const leastCapBytes = 4 * mebibyte
/** Checksums and copies on overwrite buy nothing for data that does not outlive the machine. */
const mountOptions = 'nodatacow,discard=async'

/** The writable part of one sandbox: a directory with a hard size cap, ids stored as the guest sees them. */
export interface Upper {
  readonly id: string
  /** Holds `upper/` and `work/`. */
  readonly path: string
  readonly capMib: number
  /** Bytes it shares with the upper it was copied from: they count against the cap, but not in its own quota. */
  readonly inheritedBytes?: number
}

export interface UpperStoreOptions {
  /** The sparse file, e.g. stateDir/uppers.btrfs. Made if missing. */
  file: string
  /** e.g. runDir/uppers. */
  mountPoint: string
  /** Size of the file when it is made, at least 256; it takes only the space that uppers use. */
  sizeMib: number
  /** How many to have ready; default 8. */
  readyCount?: number
}

export class UpperStore {
  readonly mountPoint: string
  readonly #file: string
  readonly #readyCount: number
  readonly #ready: string[] = []
  #closed = false
  #refill: Promise<void> | undefined
  #making: string | undefined
  #deletions: Promise<void> = Promise.resolve()
  #failedDeletions = new Set<string>()
  readonly #unrecorded = new Set<string>()

  private constructor(options: UpperStoreOptions) {
    this.mountPoint = options.mountPoint
    this.#file = options.file
    this.#readyCount = options.readyCount ?? defaultReadyCount
    this.#startRefill()
  }

  /** Mounts the store, or finds it mounted (by a daemon that is gone). A file that cannot be mounted is set aside. */
  static async open(options: UpperStoreOptions): Promise<UpperStore> {
    if (!isMounted(options.mountPoint)) {
      mkdirSync(options.mountPoint, { recursive: true, mode: 0o700 })
      await mountOrMake(options)
    }
    return new UpperStore(options)
  }

  /** A new, empty upper. Throws SystemError (ENOSPC: the store or its disk is full). */
  take(capMib: number): Upper {
    const ready = this.#ready.shift()
    const id = ready ?? newId()
    const path = join(this.mountPoint, id)
    if (ready === undefined) {
      createSubvolume(path)
      makeDirectories(path)
    }
    limitSubvolume(path, capMib * mebibyte)
    this.#startRefill()
    return { id, path, capMib }
  }

  /** Changes the cap of an upper; what it holds already stays. */
  limit(upper: Upper, capMib: number): Upper {
    limitSubvolume(upper.path, capMib * mebibyte)
    return { ...upper, capMib }
  }

  /** Deletes an upper in the background. Idempotent. */
  release(upper: Pick<Upper, 'path'>): void {
    this.#unrecorded.delete(basename(upper.path))
    this.#deletions = this.#deletions.then(() => this.#delete(upper.path))
  }

  /**
   * A read-only copy of an upper as it is now, as an upper of its own: release it like one. Nobody's until `recorded`.
   * Takes some milliseconds, more when much is unwritten.
   */
  async snapshot(upper: Upper): Promise<Upper> {
    return this.#copyOf(upper, { readOnly: true }, async ({ id, path }) => ({
      ...{ id, path, capMib: upper.capMib },
      inheritedBytes: this.usageBytes(upper),
    }))
  }

  /** Names a copy that somebody else makes, read-only, at its path. Nobody's until `recorded`; released like any. */
  nameCopy(upper: Upper): Upper {
    const id = newId()
    this.#unrecorded.add(id)
    return { id, path: join(this.mountPoint, id), capMib: upper.capMib }
  }

  /** A writable copy of an upper that nothing runs on, whose cap counts what it starts with. Else as `snapshot`. */
  async clone(base: Upper, capMib: number): Promise<Upper> {
    return this.#copyOf(base, { readOnly: false }, async ({ id, path }) => {
      let heldBytes = this.usageBytes(base)
      if (heldBytes > capMib * mebibyte * countedShare)
        heldBytes = Math.min(heldBytes, await occupiedBytes(base.path))
      // Full quotas count shared bytes in the copy as well, simple ones in the original alone.
      const inheritedBytes = Math.max(0, heldBytes - this.#ownBytes(path))
      limitSubvolume(path, Math.max(leastCapBytes, capMib * mebibyte - inheritedBytes))
      return { id, path, capMib, inheritedBytes }
    })
  }

  has({ path }: Pick<Upper, 'path'>): boolean {
    return statSync(path, { throwIfNoEntry: false }) !== undefined
  }

  /** Waits until what is written in an upper would be there after a loss of power. A snapshot of it needs no wait. */
  sync({ path }: Pick<Upper, 'path'>): Promise<void> {
    return syncFileSystem(path)
  }

  /** From now on the journal or a snapshot names this upper: a sweep that does not find it there may remove it. */
  recorded(upper: Pick<Upper, 'id'>): void {
    this.#unrecorded.delete(upper.id)
  }

  /** @param finish what the copy is, once it is made; when it throws there is none */
  async #copyOf(
    upper: Upper,
    options: { readOnly: boolean },
    finish: (copy: { id: string; path: string }) => Promise<Upper>,
  ): Promise<Upper> {
    const id = newId()
    const path = join(this.mountPoint, id)
    this.#unrecorded.add(id)
    try {
      await snapshotSubvolumeInBackground(upper.path, path, options)
      return await finish({ id, path })
    } catch (error) {
      this.release({ path })
      throw error
    }
  }

  /** Bytes the upper holds, as of the last commit: up to half a minute old. */
  usageBytes(upper: Pick<Upper, 'path' | 'inheritedBytes'>): number {
    return this.#ownBytes(upper.path) + (upper.inheritedBytes ?? 0)
  }

  #ownBytes(path: string): number {
    return quotaUsageBytes(this.mountPoint, subvolumeId(path)) ?? 0
  }

  /**
   * Bytes that all uppers together may still write: the file is sparse, so the disk below it counts too. Nothing
   * new may start when little is left; a full disk below stops the writes of every sandbox.
   */
  availableBytes(): number {
    const below = fileSystemOf(dirname(this.#file)).availableBytes
    return Math.min(fileSystemOf(this.mountPoint).availableBytes, below)
  }

  /** Ids of all uppers that were taken, by this store or one before. */
  list(): string[] {
    return readdirSync(this.mountPoint).filter(
      (id) =>
        idPattern.test(id) && !this.#ready.includes(id) && id !== this.#making && !this.#unrecorded.has(id),
    )
  }

  /** Releases every upper whose id is not in `known`. Answers the released ids. */
  sweep(known: ReadonlySet<string>): string[] {
    const unknown = this.list().filter((id) => !known.has(id))
    for (const id of unknown) this.release({ path: join(this.mountPoint, id) })
    return unknown
  }

  /** Waits until everything released so far is deleted and all is ready. Throws when something could not be deleted. */
  async settled(): Promise<void> {
    await this.#deletions
    await this.#refill
    if (this.#failedDeletions.size > 0)
      throw new Error(`uppers that could not be deleted: ${[...this.#failedDeletions].join(', ')}`)
  }

  /** Unmounts the store. Uppers in use keep the file system alive; the file stays. */
  async close(): Promise<void> {
    this.#closed = true
    await this.#refill
    for (const id of this.#ready.splice(0)) this.release({ path: join(this.mountPoint, id) })
    await this.#deletions
    if (isMounted(this.mountPoint)) umount2(this.mountPoint)
  }

  /** Off this thread, since it may wait. What fails here fails in `take` with its reason. */
  #startRefill(): void {
    if (this.#refill || this.#closed || this.#ready.length >= this.#readyCount) return
    this.#refill = this.#makeReady()
      .catch(() => {})
      .finally(() => {
        this.#making = undefined
        this.#refill = undefined
      })
  }

  async #makeReady(): Promise<void> {
    while (!this.#closed && this.#ready.length < this.#readyCount) {
      const id = newId()
      const path = join(this.mountPoint, id)
      this.#making = id
      await createSubvolumeInBackground(path)
      makeDirectories(path)
      this.#ready.push(id)
    }
  }

  async #delete(path: string): Promise<void> {
    try {
      statSync(path)
      await deleteSubvolumeInBackground(path)
      this.#failedDeletions.delete(path)
    } catch {
      // Kept for `settled`, and for the next sweep: the id is still listed.
      if (statSync(path, { throwIfNoEntry: false })) this.#failedDeletions.add(path)
    }
  }
}

/** What the files of a directory take, each once. */
async function occupiedBytes(path: string): Promise<number> {
  const { stdout } = await run('du', ['-s', '--block-size=1', path], { timeoutMs: countTimeoutMs })
  return Number.parseInt(stdout, 10)
}

/** What else lies on the file system is not the store's: an engine keeps there what its uppers share blocks with. */
const idPattern = /^[0-9a-f]{16}$/

function newId(): string {
  return randomBytes(8).toString('hex')
}

function makeDirectories(path: string): void {
  mkdirSync(join(path, 'upper'), { mode: 0o755 })
  mkdirSync(join(path, 'work'), { mode: 0o700 })
}

function isMounted(mountPoint: string): boolean {
  return mountTable().some((entry) => entry.target === mountPoint && entry.fileSystem === 'btrfs')
}

async function mountOrMake(options: UpperStoreOptions): Promise<void> {
  const { file, mountPoint } = options
  if (statSync(file, { throwIfNoEntry: false })) {
    try {
      return mountFile(file, mountPoint)
    } catch (error) {
      if (!isDamage(error)) throw error
      renameSync(file, `${file}.damaged`)
    }
  }
  const unfinished = `${file}.new`
  rmSync(unfinished, { force: true })
  mkdirSync(dirname(file), { recursive: true })
  const fd = openSync(unfinished, 'wx', 0o600)
  ftruncateSync(fd, options.sizeMib * mebibyte)
  closeSync(fd)
  await run('mkfs.btrfs', ['--quiet', '--metadata', 'single', '--data', 'single', unfinished])
  mountFile(unfinished, mountPoint)
  enableQuota(mountPoint)
  await renameDurably(unfinished, file)
}

function mountFile(file: string, mountPoint: string): void {
  const device = loopDeviceOf(file) ?? attachLoopDevice(file, { directIo: true })
  try {
    mount(device.path, mountPoint, 'btrfs', MS_NOATIME | MS_NODEV, mountOptions)
  } finally {
    closeSync(device.fd)
  }
}

/**
 * The device that a file system of this file still lives on: unmounted here, but held by sandboxes. A second device
 * on the same file would destroy it.
 */
function loopDeviceOf(file: string): LoopDevice | undefined {
  const real = realpathSync(file)
  for (const name of readdirSync('/sys/block').filter((block) => block.startsWith('loop'))) {
    if (backingFile(name) !== real) continue
    const path = `/dev/${name}`
    const fd = openSync(path, 'r+')
    // Open it cannot be detached any more; before, it may have been, and be another file's by now.
    if (backingFile(name) === real) return { path, fd }
    closeSync(fd)
  }
  return undefined
}

function backingFile(device: string): string | undefined {
  try {
    return readFileSync(`/sys/block/${device}/loop/backing_file`, 'utf8').trimEnd()
  } catch {
    return undefined
  }
}

/** EINVAL (no btrfs), EIO and EUCLEAN (a broken one). */
function isDamage(error: unknown): boolean {
  return error instanceof SystemError && [-22, -5, -117].includes(error.errno)
}
