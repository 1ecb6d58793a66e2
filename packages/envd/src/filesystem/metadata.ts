import {
  listAttributes,
  listOpenFileAttributes,
  readAttribute,
  removeAttribute,
  setAttribute,
} from '../system/kernel.ts'
import { errorCode } from '../system/paths.ts'

/** User metadata of files: extended attributes `user.e2b.<key>`, keys and values printable ASCII. */

const PREFIX = 'user.e2b.'
const KEY_LIMIT_BYTES = 255 - PREFIX.length
const TOTAL_LIMIT_BYTES = 4096

/** @throws Error with a sentence for the client when a key or value is not allowed */
export function validateMetadata(metadata: Readonly<Record<string, string>>): void {
  let total = 0
  for (const [key, value] of Object.entries(metadata)) {
    if (key === '') throw new Error('metadata key must not be empty')
    if (key.length > KEY_LIMIT_BYTES) {
      throw new Error(`metadata key ${JSON.stringify(key)} exceeds ${KEY_LIMIT_BYTES} bytes`)
    }
    requirePrintable('key', key)
    requirePrintable(`value for key ${JSON.stringify(key)}`, value)
    total += PREFIX.length + key.length + value.length
  }
  if (total > TOTAL_LIMIT_BYTES) {
    throw new Error(`total metadata size ${total} exceeds ${TOTAL_LIMIT_BYTES} bytes`)
  }
}

function requirePrintable(label: string, text: string): void {
  const bytes = Buffer.from(text, 'latin1')
  const at = bytes.findIndex((byte) => byte < 0x20 || byte > 0x7e)
  if (at < 0) return
  const hex = (bytes[at] ?? 0).toString(16).padStart(2, '0')
  throw new Error(`metadata ${label} contains non-printable-ASCII byte 0x${hex} at offset ${at}`)
}

const UNSUPPORTED = new Set(['ENOTSUP', 'EOPNOTSUPP'])

/** True when the file system has no extended attributes. */
export function isMetadataUnsupported(error: unknown): boolean {
  return UNSUPPORTED.has(errorCode(error) ?? '')
}

/** Metadata of the file at `path`, empty when it has none or cannot be read. Values that are not UTF-8 are skipped. */
export function readMetadata(path: string): Record<string, string> {
  const metadata: Record<string, string> = {}
  try {
    for (const name of listAttributes(path)) {
      if (!name.startsWith(PREFIX)) continue
      const value = readAttribute(path, name)
      if (isUtf8(value)) metadata[name.slice(PREFIX.length)] = value.toString('utf8')
    }
  } catch {
    return metadata
  }
  return metadata
}

function isUtf8(bytes: Buffer): boolean {
  return Buffer.from(bytes.toString('utf8'), 'utf8').equals(bytes)
}

/** Makes `metadata` the whole metadata of an open file. @throws KernelError */
export function replaceMetadata(fd: number, metadata: Readonly<Record<string, string>>): void {
  for (const name of listOpenFileAttributes(fd)) {
    if (name.startsWith(PREFIX) && !Object.hasOwn(metadata, name.slice(PREFIX.length)))
      removeAttribute(fd, name)
  }
  for (const [key, value] of Object.entries(metadata)) setAttribute(fd, PREFIX + key, value)
}
