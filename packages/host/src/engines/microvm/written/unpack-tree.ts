/**
 * Unpacks a tree that a guest wrote into an empty directory of this machine, as root. Nothing of it can lie outside:
 * each name is a single component, made anew in an open directory that was made here the same way, and no link is
 * ever followed. Anything that does not fit is an error; what was unpacked until then is the caller's to remove.
 */
import { closeSync, constants, ftruncateSync, openSync, readdirSync, writeSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { DirectoryEntry } from '../../../linux/directory-entry.ts'
import { keptAttributes } from './tree-attributes.ts'
import { PERMISSION_BITS, type StreamSource, type TreeRecord, TreeStream, TYPE_BITS } from './tree-stream.ts'

export interface TreeLimits {
  /** Files, directories and everything else together. */
  entries: number
  /** Directories within each other, each of which is held open. */
  depth: number
  /** Files with several names, each of which is remembered. */
  linkedFiles: number
  /** Sizes of all files, holes included. */
  totalBytes: number
}

export const TREE_LIMITS: TreeLimits = {
  entries: 4_000_000,
  depth: 256,
  linkedFiles: 250_000,
  totalBytes: 2 ** 40,
}

export interface UnpackedTree {
  entries: number
  totalBytes: number
}

const LONGEST_PATH = 4095
/** Others on this thread are waiting. */
const SLICE_MS = 3
const SPECIAL_FILES = [constants.S_IFIFO, constants.S_IFSOCK]

interface OpenDirectory {
  record: TreeRecord
  entry: DirectoryEntry
  fd: number
  /** Names from the root of the tree. */
  path: readonly Buffer[]
}

/** @throws Error with what is wrong with the tree and where; SystemError */
export async function unpackTree(
  source: StreamSource,
  directory: string,
  limits: TreeLimits = TREE_LIMITS,
): Promise<UnpackedTree> {
  if (readdirSync(directory).length > 0) throw new Error(`${directory} is not empty`)
  const parent = openSync(dirname(directory), constants.O_RDONLY | constants.O_DIRECTORY)
  const unpacking = new Unpacking(
    source,
    new DirectoryEntry(parent, Buffer.from(basename(directory))),
    limits,
  )
  try {
    return await unpacking.run()
  } finally {
    unpacking.close()
    closeSync(parent)
  }
}

class Unpacking {
  readonly #stream: TreeStream
  readonly #root: DirectoryEntry
  readonly #limits: TreeLimits
  /** From the root down to where the stream is. */
  readonly #open: OpenDirectory[] = []
  /** What hard links may lead to, by the number of its record. */
  readonly #linked = new Map<number, { parentPath: readonly Buffer[]; name: Buffer }>()
  #rootFd = -1
  #entries = 0
  #totalBytes = 0
  #sliceEndMs = 0

  constructor(source: StreamSource, root: DirectoryEntry, limits: TreeLimits) {
    this.#stream = new TreeStream(source)
    this.#root = root
    this.#limits = limits
  }

  async run(): Promise<UnpackedTree> {
    await this.#stream.begin()
    this.#enterRoot(await this.#stream.next())
    for (;;) {
      await this.#giveWay()
      const record = await this.#stream.next()
      if (record.kind === 'end') return this.#finish(record)
      const current = this.#open.at(-1)
      if (!current) throw new Error('something lies outside of the tree')
      if (record.kind === 'up') this.#leave(current)
      else await this.#add(record, current)
    }
  }

  close(): void {
    for (const { fd } of this.#open.splice(0)) if (fd !== this.#rootFd) closeSync(fd)
    if (this.#rootFd >= 0) closeSync(this.#rootFd)
    this.#rootFd = -1
  }

  #enterRoot(record: TreeRecord): void {
    if (record.kind !== 'directory' || record.name.length > 0)
      throw new Error('it does not begin with its root')
    this.#rootFd = this.#root.openDirectory()
    this.#open.push({ record, entry: this.#root, fd: this.#rootFd, path: [] })
    this.#entries = 1
  }

  #finish({ size }: TreeRecord): UnpackedTree {
    if (this.#open.length > 0 || size !== this.#entries) throw new Error('it ends before it is whole')
    return { entries: this.#entries, totalBytes: this.#totalBytes }
  }

  #leave({ record, entry, fd }: OpenDirectory): void {
    this.#open.pop()
    // The root stays open for hard links that nothing can ask for any more; `close` has it.
    if (fd !== this.#rootFd) closeSync(fd)
    applyMetadata(entry, record)
  }

  async #add(record: TreeRecord, { fd, path: parentPath }: OpenDirectory): Promise<void> {
    const path = [...parentPath, record.name]
    try {
      this.#count(record, path)
      const entry = new DirectoryEntry(fd, record.name)
      if (record.kind === 'directory') return this.#enter(record, entry, path)
      if (record.kind === 'link') return this.#link(record, entry)
      if (record.isLinked) this.#remember(record, parentPath)
      if (record.kind === 'file') await this.#file(record, entry)
      else if (record.kind === 'symlink') entry.makeSymlink(record.target)
      else entry.makeNode(nodeType(record))
      applyMetadata(entry, record)
    } catch (error) {
      throw new Error(`${shownPath(path)}: ${(error as Error).message}`, { cause: error })
    }
  }

  #count({ name }: TreeRecord, path: readonly Buffer[]): void {
    if (name.length === 0) throw new Error('it has no name')
    if (++this.#entries > this.#limits.entries) throw new Error(`more than ${this.#limits.entries} files`)
    if (path.length > this.#limits.depth) throw new Error(`more than ${this.#limits.depth} directories deep`)
    if (path.reduce((sum, one) => sum + one.length + 1, 0) > LONGEST_PATH)
      throw new Error('its path is too long')
  }

  #enter(record: TreeRecord, entry: DirectoryEntry, path: readonly Buffer[]): void {
    entry.makeDirectory()
    this.#open.push({ record, entry, fd: entry.openDirectory(), path })
  }

  #remember({ name }: TreeRecord, parentPath: readonly Buffer[]): void {
    if (this.#linked.size >= this.#limits.linkedFiles)
      throw new Error(`more than ${this.#limits.linkedFiles} files with several names`)
    this.#linked.set(this.#entries - 1, { parentPath, name })
  }

  #link({ size }: TreeRecord, entry: DirectoryEntry): void {
    const linked = this.#linked.get(size)
    if (!linked) throw new Error('it is a hard link to nothing')
    let fd = this.#rootFd
    try {
      for (const name of linked.parentPath) {
        const next = new DirectoryEntry(fd, name).openDirectory()
        if (fd !== this.#rootFd) closeSync(fd)
        fd = next
      }
      entry.linkTo(new DirectoryEntry(fd, linked.name))
    } finally {
      if (fd !== this.#rootFd) closeSync(fd)
    }
  }

  async #file({ size }: TreeRecord, entry: DirectoryEntry): Promise<void> {
    this.#totalBytes += size
    if (this.#totalBytes > this.#limits.totalBytes)
      throw new Error(`files of more than ${this.#limits.totalBytes} bytes together`)
    const fd = entry.makeFile()
    try {
      let end = 0
      for (let extent = await this.#stream.extent(); extent; extent = await this.#stream.extent()) {
        const { offset, length } = extent
        if (offset < end || offset + length > size) throw new Error('its data lies outside of it')
        end = offset + length
        for (let at = offset; at < end; ) {
          const bytes = await this.#stream.data(end - at)
          writeWhole(fd, bytes, at)
          at += bytes.length
          await this.#giveWay()
        }
      }
      ftruncateSync(fd, size)
    } finally {
      closeSync(fd)
    }
  }

  async #giveWay(): Promise<void> {
    if (performance.now() < this.#sliceEndMs) return
    await setImmediate()
    this.#sliceEndMs = performance.now() + SLICE_MS
  }
}

function writeWhole(fd: number, bytes: Buffer, position: number): void {
  for (let done = 0; done < bytes.length; )
    done += writeSync(fd, bytes, done, bytes.length - done, position + done)
}

/** Besides whiteouts no device can be part of a layer: sandboxes on this machine's kernel have its layers too. */
function nodeType({ mode, device }: TreeRecord): number {
  const type = mode & TYPE_BITS
  if (SPECIAL_FILES.includes(type)) return type
  if (type === constants.S_IFCHR && device.major === 0 && device.minor === 0) return type
  throw new Error('it is a device, which no layer can have')
}

/** A change of owner takes rights and capabilities away, and a change of anything the time: so in this order. */
function applyMetadata(entry: DirectoryEntry, record: TreeRecord): void {
  entry.setOwner(record.uid, record.gid)
  if (record.kind !== 'symlink') entry.setMode(record.mode & PERMISSION_BITS)
  for (const { name, value } of keptAttributes(record)) entry.setAttribute(name, value)
  entry.setTimes(record.seconds, record.nanoseconds)
}

function shownPath(path: readonly Buffer[]): string {
  const text = `/${path.map((name) => name.toString()).join('/')}`
  return JSON.stringify(text.length > 200 ? `…${text.slice(-200)}` : text).slice(1, -1)
}
