/** The sparse file of a store of uppers, and the one btrfs in it. */
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import { dirname } from 'node:path'
import { renameDurably } from '../linux/durable.ts'
import { errorCode, SystemError } from '../linux/libc.ts'
import { attachLoopDevice, type LoopDevice } from '../linux/loop-device.ts'
import { MS_NOATIME, MS_NODEV, MS_RDONLY, mount } from '../linux/mount.ts'
import { mountTable } from '../linux/mount-table.ts'
import { run } from '../linux/process.ts'
import { enableQuota } from './btrfs.ts'

const mebibyte = 1024 * 1024
/** Checksums and copies on overwrite cost every write of a sandbox, and no second copy is there to mend from. */
const mountOptions = 'nodatacow,discard=async'

export interface UpperFileOptions {
  /** The sparse file, e.g. stateDir/uppers.btrfs. Made if missing. */
  file: string
  /** e.g. runDir/uppers. */
  mountPoint: string
  /** Size of the file when it is made, at least 256; it takes only the space that uppers use. */
  sizeMib: number
}

/** Whether the store is mounted there. */
export function isMounted(mountPoint: string): boolean {
  return mountTable().some((entry) => entry.target === mountPoint && entry.fileSystem === 'btrfs')
}

/**
 * Mounts the file, made with quotas if it is missing. One that cannot be mounted is set aside; while somebody holds it
 * nothing is mounted, since what they hold is all that there is of it.
 * @throws SystemError what the kernel refuses for another reason
 */
export async function mountOrMake(options: UpperFileOptions): Promise<void> {
  const { file, mountPoint } = options
  if (statSync(file, { throwIfNoEntry: false })) {
    try {
      return mountFile(file, mountPoint)
    } catch (error) {
      if (!isDamage(error)) throw error
      if (isHeld(file)) return
      renameSync(file, `${file}.damaged`)
    }
  }
  const unfinished = `${file}.new`
  rmSync(unfinished, { force: true })
  mkdirSync(dirname(file), { recursive: true })
  const fd = openSync(unfinished, 'wx', 0o600)
  ftruncateSync(fd, options.sizeMib * mebibyte)
  closeSync(fd)
  await run('mkfs.btrfs', ['--quiet', '--metadata', 'single', '--data', 'single', unfinished])
  mountFile(unfinished, mountPoint)
  enableQuota(mountPoint)
  await renameDurably(unfinished, file)
}

/**
 * A file that somebody holds and that takes no writes any more is mounted to be read.
 * @throws SystemError; of such a file EIO, where the kernel cannot even read it any more
 */
export function mountFile(file: string, mountPoint: string): void {
  const held = loopDeviceOf(file)
  const device = held ?? attachLoopDevice(file, { directIo: true })
  const flags = MS_NOATIME | MS_NODEV
  try {
    mount(device.path, mountPoint, 'btrfs', flags, mountOptions)
  } catch (error) {
    // The kernel has given it up and somebody holds it still: until then it can be read.
    if (!held || errorCode(error) !== 'EINVAL') throw error
    mount(device.path, mountPoint, 'btrfs', flags | MS_RDONLY, mountOptions)
  } finally {
    closeSync(device.fd)
  }
}

/**
 * The device that a file system of this file still lives on: unmounted here, but held by sandboxes. A second device
 * on the same file would destroy it.
 */
function loopDeviceOf(file: string): LoopDevice | undefined {
  const real = realpathSync(file)
  for (const name of readdirSync('/sys/block').filter((block) => block.startsWith('loop'))) {
    if (backingFile(name) !== real) continue
    const path = `/dev/${name}`
    const fd = openSync(path, 'r+')
    // Open it cannot be detached any more; before, it may have been, and be another file's by now.
    if (backingFile(name) === real) return { path, fd }
    closeSync(fd)
  }
  return undefined
}

/** Whether a file system of this file is alive, mounted anywhere or held by what runs on it. */
export function isHeld(file: string): boolean {
  const device = loopDeviceOf(file)
  if (device) closeSync(device.fd)
  return device !== undefined
}

function backingFile(device: string): string | undefined {
  try {
    return readFileSync(`/sys/block/${device}/loop/backing_file`, 'utf8').trimEnd()
  } catch {
    return undefined
  }
}

/** EINVAL (no btrfs), EIO and EUCLEAN (a broken one). */
function isDamage(error: unknown): boolean {
  return error instanceof SystemError && [-22, -5, -117].includes(error.errno)
}
