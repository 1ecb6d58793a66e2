import koffi from 'koffi'

/** The kernel calls that Node lacks. Every function throws an `ErrnoException`-like error when the call fails. */

const O_CLOEXEC = 0o2000000
const O_RDWR_NOCTTY = 0o402
const TIOCSPTLCK = 0x40045431
const TIOCGPTN = 0x80045430
const TIOCSWINSZ = 0x5414
const XATTR_MAX_BYTES = 64 * 1024

const libc = koffi.load(null)
const c = {
  pipe2: libc.func('int pipe2(_Out_ int *fds, int flags)'),
  open: libc.func('int open(const char *path, int flags)'),
  close: libc.func('int close(int fd)'),
  dup: libc.func('int dup(int fd)'),
  ioctl: libc.func('int ioctl(int fd, unsigned long request, void *argument)'),
  listxattr: libc.func('long listxattr(const char *path, void *list, unsigned long size)'),
  getxattr: libc.func('long getxattr(const char *path, const char *name, void *value, unsigned long size)'),
  flistxattr: libc.func('long flistxattr(int fd, void *list, unsigned long size)'),
  fsetxattr: libc.func('int fsetxattr(int fd, const char *name, void *value, unsigned long size, int flags)'),
  fremovexattr: libc.func('int fremovexattr(int fd, const char *name)'),
  sethostname: libc.func('int sethostname(const char *name, unsigned long size)'),
}

/** Why a kernel call failed; `code` is the errno name, as in Node's own errors. */
export class KernelError extends Error {
  readonly code: string

  constructor(call: string) {
    const errno = koffi.errno()
    const code = Object.entries(koffi.os.errno).find(([, value]) => value === errno)?.[0] ?? `E${errno}`
    super(`${call}: ${code}`)
    this.name = 'KernelError'
    this.code = code
  }
}

function checked(call: string, result: number | bigint): number {
  const value = Number(result)
  if (value < 0) throw new KernelError(call)
  return value
}

/** A pipe as `[read end, write end]`, both closed on exec. */
export function openPipe(): [number, number] {
  const fds: [number, number] = [-1, -1]
  checked('pipe2', c.pipe2(fds, O_CLOEXEC))
  return fds
}

/** A pseudo terminal of the given size, in characters. The caller owns both descriptors. */
export function openTerminal(size: { cols: number; rows: number }): { master: number; slave: number } {
  const master = checked('open', c.open('/dev/ptmx', O_RDWR_NOCTTY | O_CLOEXEC))
  try {
    checked('ioctl', c.ioctl(master, TIOCSPTLCK, Buffer.alloc(4)))
    const number = Buffer.alloc(4)
    checked('ioctl', c.ioctl(master, TIOCGPTN, number))
    resizeTerminal(master, size)
    const slave = checked('open', c.open(`/dev/pts/${number.readUInt32LE()}`, O_RDWR_NOCTTY | O_CLOEXEC))
    return { master, slave }
  } catch (error) {
    c.close(master)
    throw error
  }
}

/** Sets the size of a terminal, in characters; the foreground processes get SIGWINCH. */
export function resizeTerminal(fd: number, size: { cols: number; rows: number }): void {
  const winsize = Buffer.alloc(8)
  winsize.writeUInt16LE(size.rows & 0xffff, 0)
  winsize.writeUInt16LE(size.cols & 0xffff, 2)
  checked('ioctl', c.ioctl(fd, TIOCSWINSZ, winsize))
}

/** A second descriptor of the same open file. */
export const duplicate = (fd: number): number => checked('dup', c.dup(fd))

/** Closes a descriptor; one that is closed already is no error. */
export function closeDescriptor(fd: number): void {
  c.close(fd)
}

function splitNames(list: Buffer): string[] {
  return list.toString('utf8').split('\0').filter(Boolean)
}

/** Names of the extended attributes of the file at `path`, following links. */
export function listAttributes(path: string): string[] {
  const size = checked('listxattr', c.listxattr(path, null, 0))
  if (size === 0) return []
  const list = Buffer.alloc(XATTR_MAX_BYTES)
  return splitNames(list.subarray(0, checked('listxattr', c.listxattr(path, list, list.length))))
}

/** Value of one extended attribute. */
export function readAttribute(path: string, name: string): Buffer {
  const value = Buffer.alloc(XATTR_MAX_BYTES)
  return value.subarray(0, checked('getxattr', c.getxattr(path, name, value, value.length)))
}

/** Names of the extended attributes of an open file. */
export function listOpenFileAttributes(fd: number): string[] {
  const list = Buffer.alloc(XATTR_MAX_BYTES)
  return splitNames(list.subarray(0, checked('flistxattr', c.flistxattr(fd, list, list.length))))
}

/** Sets an extended attribute of an open file. */
export function setAttribute(fd: number, name: string, value: string): void {
  const bytes = Buffer.from(value)
  checked('fsetxattr', c.fsetxattr(fd, name, bytes, bytes.length, 0))
}

/** Removes an extended attribute of an open file. */
export function removeAttribute(fd: number, name: string): void {
  checked('fremovexattr', c.fremovexattr(fd, name))
}

/** Sets the name of this machine (its UTS namespace). */
export function setHostname(name: string): void {
  checked('sethostname', c.sethostname(name, Buffer.byteLength(name)))
}

/** Mixes `seed` into OpenSSL's generator of this process. False when the binary does not export it. */
export function reseedOpenSsl(seed: Buffer): boolean {
  try {
    libc.func('void RAND_add(const void *buffer, int size, double entropy)')(seed, seed.length, seed.length)
    return true
  } catch {
    return false
  }
}
