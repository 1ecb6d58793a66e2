import { openSync, readSync } from 'node:fs'

/** Identifiers and secrets. All randomness comes from the kernel, never from a state that a clone could share. */

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789'
let urandom: number | undefined

/** `size` bytes straight from the kernel: OpenSSL's generator would be copied into clones of a process. */
export function kernelRandomBytes(size: number): Buffer {
  urandom ??= openSync('/dev/urandom', 'r')
  const bytes = Buffer.allocUnsafe(size)
  let filled = 0
  while (filled < size) filled += readSync(urandom, bytes, filled, size - filled, null)
  return bytes
}

/** `length` characters of `[a-z0-9]`, uniform. */
export function randomName(length: number): string {
  let name = ''
  while (name.length < length) {
    for (const byte of kernelRandomBytes(length * 2)) {
      if (byte < 252 && name.length < length) name += ALPHABET[byte % 36]
    }
  }
  return name
}

/** `i` and 20 characters of `[a-z0-9]`. */
export const newSandboxId = (): string => `i${randomName(20)}`

/** 20 characters of `[a-z0-9]`. */
export const newTemplateId = (): string => randomName(20)

/** A random UUID (version 4) from kernel randomness. */
export function newUuid(): string {
  const bytes = kernelRandomBytes(16)
  bytes[6] = (bytes[6]! & 0x0f) | 0x40
  bytes[8] = (bytes[8]! & 0x3f) | 0x80
  const hex = bytes.toString('hex')
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`
}
