import { closeSync, existsSync, openSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { tryLock, trySharedLock } from '../../../linux/file-lock.ts'
import { removeAbandoned } from '../../unfinished.ts'
import { currentGuestImage, type GuestImage } from './guest-image.ts'

/**
 * Which guest images are needed: the one in use, and those that daemons began with before it was replaced, which hold a
 * lock. Memory needs none: it has the kernel in it, and fits the image that it was captured with alone, by its name.
 */

const IMAGE = /^[0-9a-f]{64}$/
/** One that is being put in use may not be named yet. */
const YOUNG_MS = 3_600_000

/** The image in use, which stays as long as this process lives; undefined where none is. */
export function holdCurrentImage(directory: string): GuestImage | undefined {
  const image = currentGuestImage(directory)
  if (!image) return undefined
  let fd: number
  try {
    fd = openSync(image.initramfsPath, 'r')
  } catch (error) {
    // Replaced and removed since it was looked up.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return holdCurrentImage(directory)
    throw error
  }
  if (trySharedLock(fd) && existsSync(image.initramfsPath)) return image
  closeSync(fd)
  return holdCurrentImage(directory)
}

/** Deletes the images that were replaced and that nobody holds. @returns their digests */
export function removeStaleImages(directory: string, nowMs = Date.now()): string[] {
  if (!existsSync(directory)) return []
  removeAbandoned(directory, nowMs)
  const current = namedDigest(join(directory, 'current.json'))
  const names = readdirSync(directory).filter((name) => IMAGE.test(name) && name !== current)
  return names.filter((name) => {
    const root = join(directory, name)
    if (nowMs - (statSync(root, { throwIfNoEntry: false })?.mtimeMs ?? nowMs) < YOUNG_MS) return false
    return isFree(join(root, 'initramfs.cpio'), () => rmSync(root, { recursive: true, force: true }))
  })
}

/** Of the image in use, also where that is of other sources than this daemon's. */
function namedDigest(path: string): string | undefined {
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as { digest: string }).digest : undefined
}

/** Does something to a file that nobody holds, while nobody can take it. */
function isFree(path: string, work: () => void): boolean {
  if (!existsSync(path)) return false
  const fd = openSync(path, 'r')
  try {
    if (!tryLock(fd)) return false
    work()
    return true
  } finally {
    closeSync(fd)
  }
}
