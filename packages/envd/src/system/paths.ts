import { chownSync, mkdirSync, statSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname, isAbsolute, join, resolve } from 'node:path'
import type { User } from './users.ts'

/**
 * The absolute path that a client means by `path`: empty is the default workdir or the home directory, `~` is
 * the home directory, relative paths start at the home directory. An absolute path is kept as it is written.
 *
 * @throws Error when the path names the home directory of another user (`~other`)
 */
export function resolvePath(path: string, user: User, defaultWorkdir: string | undefined): string {
  const wanted = path || defaultWorkdir || ''
  const expanded = expandHome(wanted, user)
  return isAbsolute(expanded) ? expanded : resolve(user.home, expanded)
}

function expandHome(path: string, user: User): string {
  if (!path.startsWith('~')) return path
  if (path.length > 1 && path[1] !== '/' && path[1] !== '\\') {
    const reason = 'cannot expand user-specific home dir'
    throw new Error(`failed to expand path '${path}' for user '${user.name}': ${reason}`)
  }
  return resolve(join(user.home, path.slice(1)))
}

/**
 * Makes `directory` and its parents (0755, owned by the user). Directories that exist stay as they are.
 *
 * @throws Error when a file is in the way, or the errno error of a failed call
 */
export function ensureDirectory(directory: string, user: User): void {
  const info = statSync(directory, { throwIfNoEntry: false })
  if (info?.isDirectory()) return
  if (info) throw new Error(`path is a file: ${directory}`)
  if (dirname(directory) !== directory) ensureDirectory(dirname(directory), user)
  try {
    mkdirSync(directory, 0o755)
  } catch (error) {
    // The directory is there by now, for example `new/..` once `new` is. A link that leads nowhere is in the way.
    if (errorCode(error) === 'EEXIST' && statSync(directory, { throwIfNoEntry: false })?.isDirectory()) return
    throw error
  }
  chownSync(directory, user.uid, user.gid)
}

/** The errno name of an error of Node or of a kernel call, or undefined. */
export function errorCode(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const { code, errno }: NodeJS.ErrnoException = error
  if (typeof code !== 'string') return undefined
  // Node has no name of its own for what a full quota answers.
  return errno === -constants.errno.EDQUOT ? 'EDQUOT' : code
}

/** True for the ways in which a disk or a quota says that it is full. */
export function isDiskFull(error: unknown): boolean {
  const code = errorCode(error)
  return code === 'ENOSPC' || code === 'EDQUOT'
}
