import { randomUUID } from 'node:crypto'
import { chmodSync, lstatSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { memoryInfo } from '@sandbox/contract/meminfo'
import { errorCode } from '../linux/libc.ts'
import { gatewayAddress } from '../slots/slots.ts'

/** Paths inside the root that a runtime binds over others. */
export const BOOT_ID_FILE = '/run/e2b/boot_id'
export const MEMORY_INFO_FILE = '/run/e2b/meminfo'
export const EMPTY_DIRECTORY = '/run/e2b/mask/directory'
export const EMPTY_FILE = '/run/e2b/mask/file'
export const SHARED_MEMORY = '/dev/shm'

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

/** On a machine these do not outlive a boot. */
const EMPTY_AT_BOOT = ['/run', SHARED_MEMORY]

/**
 * Puts what the bundle binds into the upper of a sandbox that boots cold, before its root is mounted. Nothing runs on
 * this upper, but something may have: whatever is no plain directory on the way is the guest's making, never followed,
 * and removed. `lowerPaths` are the mounted layers: a directory that an image has keeps the image's mode. `memoryMib`
 * is given where the kernel would show the machine's memory instead.
 */
export function prepareBootFiles(upperPath: string, lowerPaths: readonly string[], memoryMib?: number): void {
  const root = join(upperPath, 'upper')
  for (const path of EMPTY_AT_BOOT) if (hasPlainParents(root, path)) emptyDirectory(join(root, path))
  for (const [path, mode] of DIRECTORIES) ensureDirectory(root, path, modeIn(lowerPaths, path) ?? mode)
  writeNew(join(root, BOOT_ID_FILE), `${randomUUID()}\n`, 0o444)
  writeNew(join(root, EMPTY_FILE), '', 0o444)
  if (memoryMib !== undefined) {
    const totalKib = memoryMib * 1024
    writeNew(join(root, MEMORY_INFO_FILE), memoryInfo({ totalKib, freeKib: totalKib }), 0o444)
  }
  // The image's own names resolvers that no sandbox reaches; where it is a link, this stands before it.
  writeNew(join(root, '/etc/resolv.conf'), `nameserver ${gatewayAddress}\n`, 0o644)
}

/** Each directory on the way is looked at before the next: none is a link when this returns. */
function ensureDirectory(root: string, path: string, mode: number): void {
  const parents = ancestors(path)
  for (const [at, ancestor] of parents.entries()) {
    const target = join(root, ancestor)
    const found = lstatSync(target, { throwIfNoEntry: false })
    if (found?.isDirectory()) continue
    if (found) rmSync(target)
    mkdirSync(target)
    if (at === parents.length - 1) chmodSync(target, mode)
  }
}

const hasPlainParents = (root: string, path: string): boolean =>
  ancestors(path).every((ancestor) =>
    lstatSync(join(root, ancestor), { throwIfNoEntry: false })?.isDirectory(),
  )

/** `/a/b` as `/a`, `/a/b`. */
const ancestors = (path: string): string[] => {
  const parts = path.split('/').filter(Boolean)
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join('/')}`)
}

function emptyDirectory(path: string): void {
  for (const name of readdirSync(path)) rmSync(join(path, name), { recursive: true, force: true })
}

/** Never through a link: what stands there goes first. */
function writeNew(path: string, content: string, mode: number): void {
  rmSync(path, { recursive: true, force: true })
  writeFileSync(path, content, { mode, flag: 'wx' })
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
