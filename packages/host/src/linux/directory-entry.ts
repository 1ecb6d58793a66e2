/**
 * Calls on one name in an open directory. A link that stands there is never followed. Names are bytes, as the kernel
 * has them.
 */
import { constants } from 'node:fs'
import { checked, libcFunction } from './libc.ts'

const AT_SYMLINK_NOFOLLOW = 0x100
const TIMESPEC_BYTES = 16
const O_CLOEXEC = 0o2000000
const NEVER_FOLLOWED = constants.O_NOFOLLOW | O_CLOEXEC
const ZERO = Buffer.alloc(1)

const openatCall = libcFunction('openat', 'int', ['int', 'void *', 'int', 'uint'])
const mkdiratCall = libcFunction('mkdirat', 'int', ['int', 'void *', 'uint'])
const symlinkatCall = libcFunction('symlinkat', 'int', ['void *', 'int', 'void *'])
const mknodatCall = libcFunction('mknodat', 'int', ['int', 'void *', 'uint', 'ulong'])
const linkatCall = libcFunction('linkat', 'int', ['int', 'void *', 'int', 'void *', 'int'])
const fchownatCall = libcFunction('fchownat', 'int', ['int', 'void *', 'uint', 'uint', 'int'])
const fchmodatCall = libcFunction('fchmodat', 'int', ['int', 'void *', 'uint', 'int'])
const utimensatCall = libcFunction('utimensat', 'int', ['int', 'void *', 'void *', 'int'])
const lsetxattrCall = libcFunction('lsetxattr', 'int', ['void *', 'void *', 'void *', 'size_t', 'int'])

const text = (name: Buffer): Buffer => Buffer.concat([name, ZERO])

/** A name in an open directory. All methods throw SystemError. */
export class DirectoryEntry {
  readonly #directory: number
  readonly #text: Buffer

  /** @param name one component: no slash, not `.` or `..` */
  constructor(directory: number, name: Buffer) {
    this.#directory = directory
    this.#text = text(name)
  }

  makeDirectory(): void {
    checked(mkdiratCall(this.#directory, this.#text, 0o700), 'mkdirat')
  }

  /** The caller closes the descriptor. */
  openDirectory(): number {
    return this.#open(constants.O_RDONLY | constants.O_DIRECTORY, 0)
  }

  /** A new file for writing, root's alone; the caller closes the descriptor. */
  makeFile(): number {
    return this.#open(constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600)
  }

  makeSymlink(target: Buffer): void {
    checked(symlinkatCall(text(target), this.#directory, this.#text), 'symlinkat')
  }

  /** A fifo, a socket, or the character device 0:0, which overlay takes for a whiteout. @param type S_IFMT bits */
  makeNode(type: number): void {
    checked(mknodatCall(this.#directory, this.#text, type | 0o600, 0), 'mknodat')
  }

  linkTo(other: DirectoryEntry): void {
    checked(linkatCall(other.#directory, other.#text, this.#directory, this.#text, 0), 'linkat')
  }

  setOwner(uid: number, gid: number): void {
    checked(fchownatCall(this.#directory, this.#text, uid, gid, AT_SYMLINK_NOFOLLOW), 'fchownat')
  }

  /** Of anything but a symbolic link, which has none: it would be followed. */
  setMode(mode: number): void {
    checked(fchmodatCall(this.#directory, this.#text, mode, 0), 'fchmodat')
  }

  setTimes(seconds: bigint, nanoseconds: number): void {
    const times = Buffer.alloc(2 * TIMESPEC_BYTES)
    for (const at of [0, TIMESPEC_BYTES]) {
      times.writeBigInt64LE(seconds, at)
      times.writeBigInt64LE(BigInt(nanoseconds), at + 8)
    }
    checked(utimensatCall(this.#directory, this.#text, times, AT_SYMLINK_NOFOLLOW), 'utimensat')
  }

  setAttribute(name: string, value: Buffer): void {
    const path = Buffer.concat([Buffer.from(`/proc/self/fd/${this.#directory}/`), this.#text])
    const words = [path, text(Buffer.from(name)), value, value.length, 0] as const
    checked(lsetxattrCall(...words), 'lsetxattr')
  }

  #open(flags: number, mode: number): number {
    return checked(openatCall(this.#directory, this.#text, flags | NEVER_FOLLOWED, mode), 'openat')
  }
}
