/** Loop devices that free themselves: the kernel detaches one when its last user (a mount, a descriptor) is gone. */
import { closeSync, openSync } from 'node:fs'
import { checked, errorCode, libcFunction } from './libc.ts'

const LOOP_CTL_GET_FREE = 0x4c82
const LOOP_CONFIGURE = 0x4c0a
const LOOP_CONFIG_BYTES = 304
const LO_FLAGS_READ_ONLY = 1
const LO_FLAGS_AUTOCLEAR = 4
const LO_FLAGS_DIRECT_IO = 16
const offsetOfLoFlags = 8 + 52
const maxAttempts = 16

const ioctlCall = libcFunction('ioctl', 'int', ['int', 'ulong', 'void *'])

export interface LoopDevice {
  /** e.g. /dev/loop3 */
  readonly path: string
  /** Holds the device until closed; close it once the mount exists. */
  readonly fd: number
}

/**
 * Attaches `file` to a free loop device. Direct I/O keeps the file's pages out of the page cache a second time.
 * Throws SystemError (`EBUSY` after 16 lost races with others who attach devices).
 */
export function attachLoopDevice(
  file: string,
  options: { readOnly?: boolean; directIo?: boolean } = {},
): LoopDevice {
  const openFlags = options.readOnly ? 'r' : 'r+'
  const control = openSync('/dev/loop-control', 'r+')
  let backing: number | undefined
  try {
    backing = openSync(file, openFlags)
    for (let attempt = 1; ; attempt++) {
      const index = checked(ioctlCall(control, LOOP_CTL_GET_FREE, null), 'ioctl', '/dev/loop-control')
      const path = `/dev/loop${index}`
      const fd = openSync(path, openFlags)
      try {
        checked(ioctlCall(fd, LOOP_CONFIGURE, loopConfig(backing, options)), 'ioctl', path)
        return { path, fd }
      } catch (error) {
        closeSync(fd)
        if (errorCode(error) !== 'EBUSY' || attempt === maxAttempts) throw error
      }
    }
  } finally {
    closeSync(control)
    if (backing !== undefined) closeSync(backing)
  }
}

function loopConfig(backing: number, options: { readOnly?: boolean; directIo?: boolean }): Buffer {
  const config = Buffer.alloc(LOOP_CONFIG_BYTES)
  config.writeUInt32LE(backing, 0)
  const flags =
    LO_FLAGS_AUTOCLEAR |
    (options.readOnly ? LO_FLAGS_READ_ONLY : 0) |
    (options.directIo ? LO_FLAGS_DIRECT_IO : 0)
  config.writeUInt32LE(flags, offsetOfLoFlags)
  return config
}
