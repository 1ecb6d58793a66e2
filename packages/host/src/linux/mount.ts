/**
 * mount(2) and the file-descriptor mount calls (Linux 5.2, `mount_setattr` 5.12). All synchronous: none of them
 * waits on anything but the kernel's own locks.
 */
import { closeSync, readSync } from 'node:fs'
import { checked, errorCode, libcFunction, SystemError, systemCall } from './libc.ts'

export const MS_RDONLY = 0x1
export const MS_NOSUID = 0x2
export const MS_NODEV = 0x4
export const MS_NOEXEC = 0x8
export const MS_REMOUNT = 0x20
export const MS_NOATIME = 0x400
export const MS_BIND = 0x1000
export const MS_MOVE = 0x2000
export const MS_REC = 0x4000
export const MS_UNBINDABLE = 0x20000
export const MS_PRIVATE = 0x40000
export const MS_SLAVE = 0x80000
export const MS_SHARED = 0x100000

export const MNT_FORCE = 1
export const MNT_DETACH = 2
export const UMOUNT_NOFOLLOW = 8

export const AT_FDCWD = -100
const AT_EMPTY_PATH = 0x1000
const AT_RECURSIVE = 0x8000
const OPEN_TREE_CLONE = 1
const O_CLOEXEC = 0o2000000
const MOVE_MOUNT_F_EMPTY_PATH = 4
const FSOPEN_CLOEXEC = 1
const FSMOUNT_CLOEXEC = 1
const FSCONFIG_SET_FLAG = 0
const FSCONFIG_SET_STRING = 1
const FSCONFIG_CMD_CREATE = 6
const MOUNT_ATTR_BYTES = 32

export const MOUNT_ATTR_RDONLY = 0x1
export const MOUNT_ATTR_NOSUID = 0x2
export const MOUNT_ATTR_NODEV = 0x4
export const MOUNT_ATTR_NOEXEC = 0x8
export const MOUNT_ATTR_NOATIME = 0x10
export const MOUNT_ATTR_IDMAP = 0x100000

const mountCall = libcFunction('mount', 'int', ['str', 'str', 'str', 'ulong', 'str'])
const umount2Call = libcFunction('umount2', 'int', ['str', 'int'])
const openTreeCall = systemCall(428, ['int', 'str', 'uint'])
const moveMountCall = systemCall(429, ['int', 'str', 'int', 'str', 'uint'])
const fsopenCall = systemCall(430, ['str', 'uint'])
const fsconfigCall = systemCall(431, ['int', 'uint', 'str', 'str', 'int'])
const fsmountCall = systemCall(432, ['int', 'uint', 'uint'])
const mountSetattrCall = systemCall(442, ['int', 'str', 'uint', 'void *', 'size_t'])

/** mount(2). `data` is the comma-separated option string. Throws SystemError. */
export function mount(
  source: string | null,
  target: string,
  fileSystem: string | null,
  flags = 0,
  data: string | null = null,
): void {
  checked(mountCall(source, target, fileSystem, flags, data), 'mount', target)
}

/** A bind mount; with `readOnly` the new mount (not its source) is read-only. `recursive` takes submounts along. */
export function bindMount(
  source: string,
  target: string,
  options: { readOnly?: boolean; recursive?: boolean } = {},
): void {
  const tree = openTree(source, options.recursive ?? false)
  try {
    if (options.readOnly)
      mountSetattr(tree, { set: MOUNT_ATTR_RDONLY, recursive: options.recursive ?? false })
    moveMount(tree, target)
  } finally {
    closeSync(tree)
  }
}

/** umount2(2); MNT_DETACH unless told otherwise. Throws SystemError (`EINVAL`: nothing is mounted there). */
export function umount2(target: string, flags: number = MNT_DETACH): void {
  checked(umount2Call(target, flags), 'umount2', target)
}

/** Like `umount2`, but a path that is gone or not a mount point is fine. Says whether something was unmounted. */
export function unmountIfMounted(target: string, flags: number = MNT_DETACH): boolean {
  try {
    umount2(target, flags)
    return true
  } catch (error) {
    const code = errorCode(error)
    if (code === 'EINVAL' || code === 'ENOENT') return false
    throw error
  }
}

/** A detached copy of the mount at `path`, as a file descriptor the caller closes. Throws SystemError. */
export function openTree(path: string, recursive = false): number {
  const flags = OPEN_TREE_CLONE | O_CLOEXEC | (recursive ? AT_RECURSIVE : 0)
  return checked(openTreeCall(AT_FDCWD, path, flags), 'open_tree', path)
}

/** Attaches the detached mount `treeFd` at `target`. Throws SystemError. */
export function moveMount(treeFd: number, target: string): void {
  checked(moveMountCall(treeFd, '', AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH), 'move_mount', target)
}

export interface MountAttributes {
  /** MOUNT_ATTR_* to set and to clear. */
  set?: number
  clear?: number
  /** MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE. */
  propagation?: number
  /** User namespace whose id map applies; sets MOUNT_ATTR_IDMAP. Only a detached mount can take one. */
  usernsFd?: number
  recursive?: boolean
}

/** mount_setattr(2) on a mount given by descriptor. Throws SystemError. */
export function mountSetattr(treeFd: number, attributes: MountAttributes): void {
  const idmap = attributes.usernsFd === undefined ? 0 : MOUNT_ATTR_IDMAP
  const record = Buffer.alloc(MOUNT_ATTR_BYTES)
  record.writeBigUInt64LE(BigInt((attributes.set ?? 0) | idmap), 0)
  record.writeBigUInt64LE(BigInt(attributes.clear ?? 0), 8)
  record.writeBigUInt64LE(BigInt(attributes.propagation ?? 0), 16)
  record.writeBigUInt64LE(BigInt(attributes.usernsFd ?? 0), 24)
  const flags = AT_EMPTY_PATH | (attributes.recursive ? AT_RECURSIVE : 0)
  checked(mountSetattrCall(treeFd, '', flags, record, MOUNT_ATTR_BYTES), 'mount_setattr')
}

/** One option of a file system: `[key]` is a flag, `[key, value]` a string. Repeatable keys may appear again. */
export type MountOption = readonly [key: string, value?: string]

/**
 * A new, detached mount of a file system: no page-size limit on all options together and no escaping, unlike
 * mount(2)'s option string. `attributes` are MOUNT_ATTR_*. The caller closes the descriptor.
 * Throws SystemError with the kernel's own explanation where it gives one.
 */
export function createMount(fileSystem: string, options: readonly MountOption[], attributes = 0): number {
  const context = checked(fsopenCall(fileSystem, FSOPEN_CLOEXEC), 'fsopen', fileSystem)
  try {
    for (const [key, value] of options) {
      const command = value === undefined ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING
      const result = fsconfigCall(context, command, key, value ?? null, 0)
      explained(context, () => checked(result, 'fsconfig', `${fileSystem} ${key}`))
    }
    const created = fsconfigCall(context, FSCONFIG_CMD_CREATE, null, null, 0)
    explained(context, () => checked(created, 'fsconfig', fileSystem))
    const mounted = fsmountCall(context, FSMOUNT_CLOEXEC, attributes)
    return explained(context, () => checked(mounted, 'fsmount', fileSystem))
  } finally {
    closeSync(context)
  }
}

/** `createMount` and `moveMount` in one. */
export function mountNew(
  fileSystem: string,
  options: readonly MountOption[],
  target: string,
  attributes = 0,
): void {
  const tree = createMount(fileSystem, options, attributes)
  try {
    moveMount(tree, target)
  } finally {
    closeSync(tree)
  }
}

/** Adds what the kernel wrote into the mount context (`e overlay: ...`) to a failed call's message. */
function explained(context: number, check: () => number): number {
  try {
    return check()
  } catch (error) {
    if (!(error instanceof SystemError)) throw error
    throw new SystemError(-error.errno, error.syscall, error.path, contextMessage(context))
  }
}

function contextMessage(context: number): string {
  const line = Buffer.alloc(1024)
  try {
    return line.toString('utf8', 0, readSync(context, line, 0, line.length, null)).trim()
  } catch {
    return ''
  }
}
