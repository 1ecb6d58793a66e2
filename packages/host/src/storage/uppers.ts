/**
 * The writable parts of all sandboxes of one machine: subvolumes with a hard cap in one btrfs, which lies in a sparse
 * file. Some are made ahead: taking one is synchronous and never waits for the disk (0.05 ms), while making one may
 * wait for a commit (0.2 ms, sometimes 15). Uppers outlive a reboot: paused sandboxes and snapshots of sandboxes keep
 * theirs. What runs is written when the kernel likes, copies and what was `sync`ed are on the disk.
 */
import { randomBytes } from 'node:crypto'
import { accessSync, constants, existsSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { syncFileSystem } from '../linux/durable.ts'
import { fileSystemOf } from '../linux/file-system.ts'
import { errorCode, SystemError } from '../linux/libc.ts'
import { umount2, unmountIfMounted } from '../linux/mount.ts'
import { run } from '../linux/process.ts'
import {
  createSubvolume,
  createSubvolumeInBackground,
  deleteSubvolumeInBackground,
  limitSubvolume,
  quotaUsageBytes,
  snapshotSubvolumeInBackground,
  subvolumeId,
} from './btrfs.ts'
import { isHeld, isMounted, mountFile, mountOrMake, type UpperFileOptions } from './upper-file.ts'

const ENOSPC = 28
const mebibyte = 1024 * 1024
/** Nothing new is put on a disk with less: what runs still writes. */
const reservedBytes = 256 * mebibyte
const defaultReadyCount = 8
const countTimeoutMs = 120_000
/** A copy of an upper that holds this share of the cap is counted file by file: what was deleted since is no debt. */
const countedShare = 0.25
/** One in use is counted when it holds this share. */
const recountedShare = 0.75
/** However full the original was, its copy can still write a little: else it could not even clean up. */
const leastCapBytes = 4 * mebibyte

/** The writable part of one sandbox: a directory with a hard size cap, ids stored as the guest sees them. */
export interface Upper {
  readonly id: string
  /** Holds `upper/` and `work/`. */
  readonly path: string
  readonly capMib: number
  /** Bytes it shares with the upper it was copied from: they count against the cap, but not in its own quota. */
  readonly inheritedBytes?: number
}

export interface UpperStoreOptions extends UpperFileOptions {
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
  /** By id, what is left of it where a recount has found less than there was at first. */
  readonly #inherited = new Map<string, number>()

  private constructor(options: UpperStoreOptions) {
    this.mountPoint = options.mountPoint
    this.#file = options.file
    this.#readyCount = options.readyCount ?? defaultReadyCount
    this.#startRefill()
  }

  /** Mounts the store, or finds it mounted (by a daemon that is gone). A file that cannot be mounted is set aside. */
  static async open(options: UpperStoreOptions): Promise<UpperStore> {
    const { file, mountPoint } = options
    // What a daemon was making that ended before the file had its name: nothing lies on it, and its next mount would
    // not find it.
    if (!existsSync(file)) unmountIfMounted(mountPoint)
    if (!isMounted(mountPoint)) {
      mkdirSync(mountPoint, { recursive: true, mode: 0o700 })
      await mountOrMake(options)
    }
    return new UpperStore(options)
  }

  /** A new, empty upper. Throws SystemError (ENOSPC: the store or its disk is full). */
  take(capMib: number): Upper {
    this.#assertWritable()
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

  /** Deletes an upper in the background. Idempotent. */
  release(upper: Pick<Upper, 'path'>): void {
    this.#unrecorded.delete(basename(upper.path))
    this.#inherited.delete(basename(upper.path))
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

  /**
   * Gives an upper in use that comes near its cap the room back of what it inherited and has deleted since, which the
   * kernel charges to the original. What it may write of its own never exceeds the cap. @returns bytes given back
   */
  async recount(upper: Upper): Promise<number> {
    const before = this.#inheritedBytes(upper)
    const capBytes = upper.capMib * mebibyte
    if (before === 0 || !this.has(upper)) return 0
    if (this.usageBytes(upper) < capBytes * recountedShare) return 0
    const held = await occupiedBytes(upper.path, { inUse: true })
    if (!this.has(upper)) return 0
    const inherited = Math.min(before, Math.max(0, held - this.#ownBytes(upper.path)))
    if (before - inherited < mebibyte) return 0
    limitSubvolume(upper.path, Math.max(leastCapBytes, capBytes - inherited))
    this.#inherited.set(basename(upper.path), inherited)
    return before - inherited
  }

  /** True also while the store cannot be looked into, as long as somebody holds it: see `reopen`. */
  has({ path }: Pick<Upper, 'path'>): boolean {
    return statSync(path, { throwIfNoEntry: false }) !== undefined || !this.#isThere()
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
    return this.#ownBytes(upper.path) + this.#inheritedBytes(upper)
  }

  #inheritedBytes({ path, inheritedBytes = 0 }: Pick<Upper, 'path' | 'inheritedBytes'>): number {
    return this.#inherited.get(basename(path)) ?? inheritedBytes
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

  /**
   * Before anything is put on the store. The file is sparse: where the disk below it is full the kernel gives the file
   * system up, and every sandbox of this machine loses its disk.
   * @throws SystemError ENOSPC with what is to be done
   */
  assertRoom(): void {
    this.#assertWritable()
    if (this.availableBytes() < reservedBytes) throw noSpace(this.#file, 'make room on its disk')
  }

  /** False once the kernel has given the file system up: what runs on it can read, and no more. */
  isWritable(): boolean {
    try {
      accessSync(this.mountPoint, constants.W_OK)
      return this.#isThere()
    } catch (error) {
      if (errorCode(error) !== 'EROFS') throw error
      return false
    }
  }

  #isThere(): boolean {
    return fileSystemOf(this.mountPoint).type === 'btrfs'
  }

  #assertWritable(): void {
    if (this.isWritable()) return
    throw noSpace(this.#file, 'its disk was full; it takes new ones when those that run have ended')
  }

  /**
   * Mounts a store anew that the kernel has given up; what was not on the disk is lost, as after a loss of power.
   * Nothing may run on it. @returns whether it takes writes again: not while anybody holds it, or its disk is full
   */
  async reopen(): Promise<boolean> {
    await this.#deletions
    await this.#refill
    if (this.isWritable()) return true
    if (fileSystemOf(dirname(this.#file)).availableBytes < reservedBytes) return false
    this.#ready.length = 0
    if (isMounted(this.mountPoint)) umount2(this.mountPoint)
    try {
      mountFile(this.#file, this.mountPoint)
    } catch (error) {
      if (!isHeld(this.#file)) throw error
      return false
    }
    this.#startRefill()
    return this.isWritable()
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

const noSpace = (file: string, what: string): SystemError => new SystemError(ENOSPC, 'write', file, what)

/** What the files of a directory take, each once. @param inUse files may go while they are counted */
async function occupiedBytes(path: string, { inUse = false } = {}): Promise<number> {
  const { stdout } = await run('du', ['-s', '--block-size=1', path], {
    timeoutMs: countTimeoutMs,
    // Of a file that went it complains, and goes on.
    passes: inUse ? [0, 1] : [0],
  })
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
