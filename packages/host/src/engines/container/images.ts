import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { idsPerSlot } from '../../slots/slots.ts'

/** Magic of the container format and of the image type. */
const HEADER_BYTES = 8
const SIZE_BYTES = 4

export interface OwnImages {
  hostname: string
  uidBase: number
}

/**
 * Writes into `directory` those images of the checkpoint in `memoryDir` that differ from one clone to the next: the
 * id range of the user namespace and the host name. All others are read where they lie.
 */
export function writeOwnImages(memoryDir: string, directory: string, own: OwnImages): void {
  rmSync(directory, { recursive: true, force: true })
  // Part of them is read by what is already root of the sandbox only, to which our files are another user's.
  mkdirSync(directory, { recursive: true, mode: 0o711 })
  for (const name of readdirSync(memoryDir)) {
    const entry = name.startsWith('userns-')
      ? usernsEntry(own.uidBase)
      : name.startsWith('utsns-')
        ? utsnsEntry(own.hostname)
        : undefined
    if (entry)
      writeFileSync(join(directory, name), withEntry(readFileSync(join(memoryDir, name)), entry), {
        mode: 0o644,
      })
  }
}

/** An image with the header of `original` and `entry` as its only message. */
export function withEntry(original: Uint8Array, entry: Uint8Array): Buffer {
  if (original.length < HEADER_BYTES) throw new Error('a checkpoint image is cut off')
  const size = Buffer.alloc(SIZE_BYTES)
  size.writeUInt32LE(entry.length)
  return Buffer.concat([original.subarray(0, HEADER_BYTES), size, entry])
}

/** `userns_entry { repeated uid_gid_extent uid_map = 1, gid_map = 2 }` with one extent each. */
export function usernsEntry(uidBase: number): Buffer {
  // uid_gid_extent { first = 1, lower_first = 2, count = 3 }
  const extent = Buffer.concat([field(1, 0), field(2, uidBase), field(3, idsPerSlot)])
  return Buffer.concat([bytesField(1, extent), bytesField(2, extent)])
}

/** `utsns_entry { nodename = 1, domainname = 2 }` */
export function utsnsEntry(hostname: string): Buffer {
  return Buffer.concat([bytesField(1, Buffer.from(hostname)), bytesField(2, Buffer.from('(none)'))])
}

function field(number: number, value: number): Buffer {
  return Buffer.concat([varint(number << 3), varint(value)])
}

function bytesField(number: number, bytes: Uint8Array): Buffer {
  return Buffer.concat([varint((number << 3) | 2), varint(bytes.length), bytes])
}

/** Up to 2^53; shifts would cut at 32 bits. */
function varint(value: number): Buffer {
  const bytes: number[] = []
  let rest = value
  while (rest > 127) {
    bytes.push((rest % 128) | 128)
    rest = Math.floor(rest / 128)
  }
  return Buffer.from([...bytes, rest])
}
