import { randomUUID } from 'node:crypto'
import { chmodSync, lstatSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { errorCode } from '../../linux/libc.ts'
import { gatewayAddress } from '../../slots.ts'
import { BOOT_ID_FILE, EMPTY_DIRECTORY, EMPTY_FILE, SHARED_MEMORY } from './bundle.ts'

/** Mount points an image may lack, with their modes. */
const DIRECTORIES = [
  ['/proc', 0o555],
  ['/sys', 0o555],
  ['/dev', 0o755],
  ['/tmp', 0o1777],
  ['/run', 0o755],
  ['/etc', 0o755],
  [dirname(BOOT_ID_FILE), 0o755],
  [dirname(EMPTY_FILE), 0o755],
  [EMPTY_DIRECTORY, 0o555],
  [SHARED_MEMORY, 0o1777],
] as const

/**
 * Puts what the bundle binds into the upper of a sandbox that boots cold, before its root is mounted. Nothing has run
 * on this upper yet, so its paths are ours; a restored sandbox has them from its snapshot's layers. `lowerPaths` are
 * the mounted layers: a directory that an image has keeps the image's mode.
 */
export function prepareBootFiles(upperPath: string, lowerPaths: readonly string[]): void {
  const root = join(upperPath, 'upper')
  for (const [path, mode] of DIRECTORIES) {
    const target = join(root, path)
    if (!present(target)) mkdirSync(target)
    chmodSync(target, modeIn(lowerPaths, path) ?? mode)
  }
  writeFileSync(join(root, BOOT_ID_FILE), `${randomUUID()}\n`, { mode: 0o444 })
  writeFileSync(join(root, EMPTY_FILE), '', { mode: 0o444 })
  // The image's own names resolvers that no sandbox reaches; where it is a link, this stands before it.
  writeFileSync(join(root, '/etc/resolv.conf'), `nameserver ${gatewayAddress}\n`, { mode: 0o644 })
}

function present(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined
}

/** Of the topmost layer that has the directory. */
function modeIn(lowerPaths: readonly string[], path: string): number | undefined {
  for (const lower of lowerPaths.toReversed()) {
    try {
      const stats = lstatSync(join(lower, path))
      return stats.isDirectory() ? stats.mode & 0o7777 : undefined
    } catch (error) {
      if (errorCode(error) !== 'ENOENT' && errorCode(error) !== 'ENOTDIR') throw error
    }
  }
  return undefined
}
