/**
 * btrfs subvolumes and their quota by ioctl: each takes well below a millisecond, starting the `btrfs` program
 * several, on this thread. What may wait for a commit of the file system runs off it.
 */
import { closeSync, constants, openSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { checked, errorCode, libcFunction, libcFunctionInBackground } from '../linux/libc.ts'

const IOC_TREE_SEARCH = 0xd0009411
const IOC_INO_LOOKUP = 0xd0009412
const IOC_SUBVOL_CREATE = 0x5000940e
const IOC_SNAP_DESTROY = 0x5000940f
const IOC_SNAP_CREATE_V2 = 0x50009417
const IOC_QUOTA_CTL = 0xc0109428
const IOC_QGROUP_LIMIT = 0x8030942b

const SUBVOLUME_READ_ONLY = 2n
const QUOTA_CTL_ENABLE = 1n
const QUOTA_CTL_ENABLE_SIMPLE = 4n
const QGROUP_LIMIT_MAX_RFER = 1n
const QUOTA_TREE = 8n
const QGROUP_INFO_KEY = 242
const FIRST_FREE_OBJECTID = 256n

const argumentBytes = 4096
const volumeNameOffset = 8
const volumeV2FlagsOffset = 16
const volumeV2NameOffset = 56
const searchBufferOffset = 104
const searchItemHeaderBytes = 32

const ioctlCall = libcFunction('ioctl', 'int', ['int', 'ulong', 'void *'])
const ioctlOffThread = libcFunctionInBackground('ioctl', 'int', ['int', 'ulong', 'void *'])

/** Makes an empty subvolume at `path`, whose parent is a directory of a btrfs. Throws SystemError. */
export function createSubvolume(path: string): void {
  withDirectory(dirname(path), (fd) => ioctl(fd, IOC_SUBVOL_CREATE, volumeArguments(path), path))
}

/** The same off this thread: it may wait for a commit of the file system. */
export function createSubvolumeInBackground(path: string): Promise<void> {
  return ioctlInBackground(IOC_SUBVOL_CREATE, path)
}

/** Deletes the subvolume at `path` off this thread; its space comes back later. */
export function deleteSubvolumeInBackground(path: string): Promise<void> {
  return ioctlInBackground(IOC_SNAP_DESTROY, path)
}

/**
 * Makes `to` a copy of the subvolume at `from` as it is now, off this thread: what is unwritten is written first. When
 * it returns the file system has been committed, so quota usage is exact.
 */
export async function snapshotSubvolumeInBackground(
  from: string,
  to: string,
  options: { readOnly: boolean },
): Promise<void> {
  const source = openSync(from, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    const args = Buffer.alloc(argumentBytes)
    args.writeBigInt64LE(BigInt(source), 0)
    if (options.readOnly) args.writeBigUInt64LE(SUBVOLUME_READ_ONLY, volumeV2FlagsOffset)
    args.write(basename(to), volumeV2NameOffset)
    await ioctlWith(IOC_SNAP_CREATE_V2, args, to)
  } finally {
    closeSync(source)
  }
}

function ioctlInBackground(request: number, path: string): Promise<void> {
  return ioctlWith(request, volumeArguments(path), path)
}

async function ioctlWith(request: number, args: Buffer, path: string): Promise<void> {
  const fd = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    if ((await ioctlOffThread(fd, request, args)) < 0) throw new Error(`btrfs refuses a change of ${path}`)
  } finally {
    closeSync(fd)
  }
}

function volumeArguments(path: string): Buffer {
  const args = Buffer.alloc(argumentBytes)
  args.write(basename(path), volumeNameOffset)
  return args
}

/** The number that names the subvolume at `path` and its quota group. Throws SystemError. */
export function subvolumeId(path: string): bigint {
  const args = Buffer.alloc(argumentBytes)
  args.writeBigUInt64LE(FIRST_FREE_OBJECTID, 8)
  withDirectory(path, (fd) => ioctl(fd, IOC_INO_LOOKUP, args, path))
  return args.readBigUInt64LE(0)
}

/**
 * Turns quota on: `simple` ones (Linux 6.7) where the kernel has them, they cost nothing on writes and deletes.
 * For a new file system: with full ones, what is there already is not counted.
 */
export function enableQuota(path: string): 'simple' | 'full' {
  return withDirectory(path, (fd) => {
    try {
      ioctl(fd, IOC_QUOTA_CTL, quotaCommand(QUOTA_CTL_ENABLE_SIMPLE), path)
      return 'simple'
    } catch (error) {
      if (errorCode(error) !== 'EINVAL') throw error
      ioctl(fd, IOC_QUOTA_CTL, quotaCommand(QUOTA_CTL_ENABLE), path)
      return 'full'
    }
  })
}

function quotaCommand(command: bigint): Buffer {
  const args = Buffer.alloc(16)
  args.writeBigUInt64LE(command, 0)
  return args
}

/** Caps what the subvolume at `path` may hold; writes beyond it fail with EDQUOT. Throws SystemError. */
export function limitSubvolume(path: string, maxBytes: number): void {
  const args = Buffer.alloc(48)
  args.writeBigUInt64LE(QGROUP_LIMIT_MAX_RFER, 8)
  args.writeBigUInt64LE(BigInt(maxBytes), 16)
  withDirectory(path, (fd) => ioctl(fd, IOC_QGROUP_LIMIT, args, path))
}

/**
 * Bytes that the quota group of a subvolume counts; as of the last commit, so up to half a minute old. Undefined
 * without such a group.
 */
export function quotaUsageBytes(mountPoint: string, id: bigint): number | undefined {
  const args = Buffer.alloc(argumentBytes)
  for (const [offset, value] of [
    [0, QUOTA_TREE],
    [24, id],
    [32, id],
    [48, 0xffff_ffff_ffff_ffffn],
  ] as const)
    args.writeBigUInt64LE(value, offset)
  args.writeUInt32LE(QGROUP_INFO_KEY, 56)
  args.writeUInt32LE(QGROUP_INFO_KEY, 60)
  args.writeUInt32LE(1, 64)
  withDirectory(mountPoint, (fd) => ioctl(fd, IOC_TREE_SEARCH, args, mountPoint))
  if (args.readUInt32LE(64) === 0) return undefined
  return Number(args.readBigUInt64LE(searchBufferOffset + searchItemHeaderBytes + 8))
}

function ioctl(fd: number, request: number, args: Buffer, path: string): void {
  checked(ioctlCall(fd, request, args), 'ioctl', path)
}

function withDirectory<Result>(path: string, action: (fd: number) => Result): Result {
  const fd = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY)
  try {
    return action(fd)
  } finally {
    closeSync(fd)
  }
}
