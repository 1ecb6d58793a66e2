import { lstatSync, mkdirSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { type CharacterDevice, makeDeviceDirectory } from '../device-directory.ts'

/** None of them reaches hardware or another process. */
const DEVICES: readonly CharacterDevice[] = [
  ['null', 1, 3],
  ['zero', 1, 5],
  ['full', 1, 7],
  ['random', 1, 8],
  ['urandom', 1, 9],
  ['tty', 5, 0],
]

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
  makeDeviceDirectory(path, 'size=64k,mode=755', DEVICES)
  for (const [name, target] of LINKS) {
    const link = join(path, name)
    if (!lstatSync(link, { throwIfNoEntry: false })) symlinkSync(target, link)
  }
  for (const name of MOUNT_POINTS) mkdirSync(join(path, name), { recursive: true })
}
