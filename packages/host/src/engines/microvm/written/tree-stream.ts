/**
 * A directory tree as native/guest-export.c writes it; the format is told there. The writer is a machine that hostile
 * code may have taken over: every length is checked before it is believed, and memory stays bounded whatever comes.
 */

export const TREE_MAGIC = 'E2BTREE1'
export const FAILURE_MAGIC = 'E2BFAIL1'
export const RECORD_BYTES = 48
export const EXTENT_BYTES = 16
export const ATTRIBUTE_HEADER_BYTES = 6
const LONGEST_NAME = 255
const LONGEST_TARGET = 4095
const LONGEST_ATTRIBUTES = 2 ** 16
const LONGEST_REASON = 1000
const CHUNK_BYTES = 2 ** 20
const NO_ID = 0xffff_ffff
const SECOND = 1_000_000_000

/** Bits of a file's mode that say what it is. */
export const TYPE_BITS = 0o170000
export const PERMISSION_BITS = 0o7777

const KINDS = {
  D: 'directory',
  U: 'up',
  F: 'file',
  L: 'symlink',
  N: 'node',
  H: 'link',
  E: 'end',
} as const

export interface TreeAttribute {
  readonly name: string
  readonly value: Buffer
}

/** One record; which of its fields mean something is up to its kind. */
export interface TreeRecord {
  readonly kind: (typeof KINDS)[keyof typeof KINDS]
  /** A single component; empty for the tree itself. */
  readonly name: Buffer
  /** Hard links to it may follow. */
  readonly isLinked: boolean
  readonly mode: number
  readonly uid: number
  readonly gid: number
  readonly device: { readonly major: number; readonly minor: number }
  /** Bytes of a file, number of the record that a link leads to, number of records before the end. */
  readonly size: number
  readonly seconds: bigint
  readonly nanoseconds: number
  readonly attributes: readonly TreeAttribute[]
  /** Of a symlink. */
  readonly target: Buffer
}

/** Part of a file: data that follows, to be read with `data`. */
export interface Extent {
  readonly offset: number
  readonly length: number
}

/** A file handle, or what stands in for it. */
export interface StreamSource {
  read(buffer: Buffer, offset: number, length: number, position: number): Promise<{ bytesRead: number }>
}

export class TreeStream {
  readonly #source: StreamSource
  readonly #buffer = Buffer.alloc(CHUNK_BYTES)
  #position = 0
  #start = 0
  #end = 0

  constructor(source: StreamSource) {
    this.#source = source
  }

  /** First of all. @throws Error with the writer's reason where it had one */
  async begin(): Promise<void> {
    const magic = (await this.#take(TREE_MAGIC.length)).toString('latin1')
    if (magic === TREE_MAGIC) return
    if (magic !== FAILURE_MAGIC) throw new Error('there is no tree')
    const text = await this.#take(LONGEST_REASON)
    const end = text.indexOf(0)
    throw new Error(text.toString('utf8', 0, end < 0 ? text.length : end).replace(/[^\x20-\x7e]/g, '?'))
  }

  async next(): Promise<TreeRecord> {
    const head = Buffer.from(await this.#take(RECORD_BYTES))
    const kind = KINDS[String.fromCharCode(head[0]!) as keyof typeof KINDS]
    if (!kind) throw new Error(`a record of kind ${head[0]} is unknown`)
    const [nameLength, attributesLength] = [head.readUInt16LE(2), head.readUInt32LE(44)]
    const record = {
      kind,
      isLinked: head[1] !== 0,
      mode: head.readUInt32LE(4),
      uid: head.readUInt32LE(8),
      gid: head.readUInt32LE(12),
      device: { major: head.readUInt32LE(16), minor: head.readUInt32LE(20) },
      size: exactNumber(head.readBigUInt64LE(24)),
      seconds: head.readBigInt64LE(32),
      nanoseconds: head.readUInt32LE(40),
    }
    if (record.nanoseconds >= SECOND) throw new Error('a time is none')
    if (record.uid === NO_ID || record.gid === NO_ID) throw new Error('an owner is none')
    const name = checkedName(await this.#copy(nameLength, LONGEST_NAME))
    const attributes = attributesIn(await this.#copy(attributesLength, LONGEST_ATTRIBUTES))
    const target =
      kind === 'symlink' ? checkedTarget(await this.#copy(record.size, LONGEST_TARGET)) : Buffer.alloc(0)
    return { ...record, name, attributes, target }
  }

  /** Of a file, after its record, until undefined. */
  async extent(): Promise<Extent | undefined> {
    const head = await this.#take(EXTENT_BYTES)
    const extent = {
      offset: exactNumber(head.readBigUInt64LE(0)),
      length: exactNumber(head.readBigUInt64LE(8)),
    }
    return extent.length === 0 ? undefined : extent
  }

  /** The next bytes of an extent, at most `length`; gone with the next call. */
  async data(length: number): Promise<Buffer> {
    if (this.#start === this.#end) await this.#fill(1)
    const end = Math.min(this.#end, this.#start + length)
    const bytes = this.#buffer.subarray(this.#start, end)
    this.#start = end
    return bytes
  }

  async #copy(length: number, longest: number): Promise<Buffer> {
    if (length > longest) throw new Error(`something is ${length} bytes long, where ${longest} is most`)
    return Buffer.from(await this.#take(length))
  }

  /** Gone with the next call. */
  async #take(length: number): Promise<Buffer> {
    if (this.#end - this.#start < length) await this.#fill(length)
    this.#start += length
    return this.#buffer.subarray(this.#start - length, this.#start)
  }

  async #fill(length: number): Promise<void> {
    this.#buffer.copyWithin(0, this.#start, this.#end)
    this.#end -= this.#start
    this.#start = 0
    while (this.#end < length) {
      const free = this.#buffer.length - this.#end
      const { bytesRead } = await this.#source.read(this.#buffer, this.#end, free, this.#position)
      if (bytesRead === 0) throw new Error('the tree ends in the middle')
      this.#position += bytesRead
      this.#end += bytesRead
    }
  }
}

function exactNumber(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`${value} is too large`)
  return Number(value)
}

/** One component of a path. */
function checkedName(name: Buffer): Buffer {
  const text = name.toString('latin1')
  if (text === '.' || text === '..' || text.includes('/') || text.includes('\0'))
    throw new Error(`${JSON.stringify(text)} is no name of a file`)
  return name
}

function checkedTarget(target: Buffer): Buffer {
  if (target.length === 0 || target.includes(0)) throw new Error('a symbolic link leads nowhere')
  return target
}

function attributesIn(bytes: Buffer): TreeAttribute[] {
  const attributes: TreeAttribute[] = []
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < ATTRIBUTE_HEADER_BYTES) throw new Error('an attribute ends in the middle')
    const nameLength = bytes.readUInt16LE(at)
    const valueLength = bytes.readUInt32LE(at + 2)
    const nameAt = at + ATTRIBUTE_HEADER_BYTES
    at = nameAt + nameLength + valueLength
    if (at > bytes.length || nameLength === 0 || nameLength > LONGEST_NAME)
      throw new Error('an attribute ends in the middle')
    const name = bytes.toString('latin1', nameAt, nameAt + nameLength)
    if (!/^[\x21-\x7e]+$/.test(name)) throw new Error('the name of an attribute is none')
    attributes.push({ name, value: bytes.subarray(nameAt + nameLength, at) })
  }
  return attributes
}
