import { chmodSync, existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { checked, libcFunction } from '../linux/libc.ts'
import { MS_NOEXEC, MS_NOSUID, mount } from '../linux/mount.ts'
import { mountsUnder } from '../linux/mount-table.ts'

const mknodCall = libcFunction('mknod', 'int', ['str', 'uint', 'ulong'])
const S_IFCHR = 0o020000
const OPEN_TO_ALL = 0o666

export type CharacterDevice = readonly [name: string, major: number, minor: number]

/**
 * Makes `path` a file system of its own with these devices, open to everybody who gets there. Idempotent, also where a
 * daemon ended in the middle of it. Throws SystemError.
 * @param options of the tmpfs
 */
export function makeDeviceDirectory(
  path: string,
  options: string,
  devices: readonly CharacterDevice[],
): void {
  mkdirSync(path, { recursive: true })
  if (mountsUnder(path).length === 0) mount('dev', path, 'tmpfs', MS_NOSUID | MS_NOEXEC, options)
  for (const [name, major, minor] of devices) {
    const node = join(path, name)
    if (!existsSync(node))
      checked(mknodCall(node, S_IFCHR | OPEN_TO_ALL, (major << 8) | minor), 'mknod', node)
    chmodSync(node, OPEN_TO_ALL)
  }
}
