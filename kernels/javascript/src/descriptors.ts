/** The calls on file descriptors that Node lacks. */
import koffi from 'koffi'

const O_CLOEXEC = 0o2000000
const O_NONBLOCK = 0o4000
const F_SETFL = 4
const F_SETPIPE_SZ = 1031
const FIONREAD = 0x541b
const POLLOUT = 4

const libc = koffi.load(null)
const c = {
  pipe2: libc.func('int pipe2(_Out_ int *fds, int flags)'),
  dup2: libc.func('int dup2(int from, int to)'),
  close: libc.func('int close(int fd)'),
  fcntl: libc.func('int fcntl(int fd, int command, ...)'),
  ioctl: libc.func('int ioctl(int fd, unsigned long request, void *argument)'),
  poll: libc.func('int poll(void *entries, unsigned long count, int timeoutMs)'),
}

export interface Pipe {
  readEnd: number
  writeEnd: number
}

/** Both ends are closed on exec. @throws Error when there are no more descriptors */
export function openPipe(): Pipe {
  const fds: [number, number] = [-1, -1]
  if (c.pipe2(fds, O_CLOEXEC) !== 0) throw new Error('no pipe could be opened')
  return { readEnd: fds[0], writeEnd: fds[1] }
}

/** As large as the system lets an ordinary process have it, up to `bytes`. */
export function enlargePipe(fd: number, bytes: number): void {
  c.fcntl(fd, F_SETPIPE_SZ, 'int', bytes)
}

export function setNonBlocking(fd: number): void {
  c.fcntl(fd, F_SETFL, 'int', O_NONBLOCK)
}

/** `to` becomes what `from` is, also for programs that are started; `from` is closed. */
export function moveDescriptor(from: number, to: number): void {
  if (c.dup2(from, to) !== to) throw new Error(`descriptor ${to} could not be replaced`)
  c.close(from)
}

const count = Buffer.alloc(4)

/** How much is waiting to be read. */
export function waitingBytes(fd: number): number {
  return c.ioctl(fd, FIONREAD, count) === 0 ? count.readInt32LE() : 0
}

/** Waits until something can be written, or for that time. */
export function waitWritable(fd: number, timeoutMs: number): void {
  const entry = Buffer.alloc(8)
  entry.writeInt32LE(fd, 0)
  entry.writeInt16LE(POLLOUT, 4)
  c.poll(entry, 1, timeoutMs)
}
