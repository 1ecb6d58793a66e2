import { chmodSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { checked, libcFunction } from '../../linux/libc.ts'
import { MS_NOEXEC, MS_NOSUID, mount } from '../../linux/mount.ts'
import { mountsUnder } from '../../linux/mount-table.ts'

const mknodCall = libcFunction('mknod', 'int', ['str', 'uint', 'ulong'])
const S_IFCHR = 0o020000
const OPEN_TO_ALL = 0o666

/** Name, major, minor. None of them reaches hardware or another process. */
const DEVICES = [
  ['null', 1, 3],
  ['zero', 1, 5],
  ['full', 1, 7],
  ['random', 1, 8],
  ['urandom', 1, 9],
  ['tty', 5, 0],
] as const

const LINKS = [
  ['fd', '/proc/self/fd'],
  ['stdin', '/proc/self/fd/0'],
  ['stdout', '/proc/self/fd/1'],
  ['stderr', '/proc/self/fd/2'],
  ['ptmx', 'pts/ptmx'],
] as const

const MOUNT_POINTS = ['pts', 'shm', 'mqueue']

/**
 * Makes `path` a file system with exactly the devices sandboxes have; all of them see it, read-only, as /dev. A
 * sandbox cannot bring devices of its own: its root is mounted without them. Idempotent. Throws SystemError.
 */
export function prepareDevices(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o755 })
  if (mountsUnder(path).length > 0) return
  mount('dev', path, 'tmpfs', MS_NOSUID | MS_NOEXEC, 'size=64k,mode=755')
  for (const [name, major, minor] of DEVICES) {
    const node = join(path, name)
    checked(mknodCall(node, S_IFCHR | OPEN_TO_ALL, (major << 8) | minor), 'mknod', node)
    chmodSync(node, OPEN_TO_ALL)
  }
  for (const [name, target] of LINKS) symlinkSync(target, join(path, name))
  for (const name of MOUNT_POINTS) mkdirSync(join(path, name))
}
