/**
 * The root of a QEMU: a directory of its machine's, in which it sees programs and libraries of this machine, devices
 * and the files of its own machine under fixed names. Nothing else of this machine is there, and no mount of it is held.
 */
import { existsSync, lstatSync, mkdirSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { makeOpenDirectory } from '../process-engine.ts'

/** Where QEMU sees the files of its machine. */
export const SEEN_AT = '/run'
/** Programs, libraries and QEMU's own data. The first is a directory; the others are, or they are links into it. */
const SYSTEM = ['/usr', '/bin', '/sbin', '/lib', '/lib64']
/** Where libraries are that lie elsewhere, as those of /usr/local do. */
const LIBRARY_CACHE = '/etc/ld.so.cache'

export interface Bind {
  from: string
  to: string
}

export const qemuRoot = (directory: string): string => join(directory, 'root')

/** The files of a machine, as this machine sees them while QEMU runs: what is bound there it does not. */
export const machineFilesIn = (directory: string): string => join(qemuRoot(directory), SEEN_AT)

/**
 * Makes the places at which QEMU will see `binds`, whose targets are named as QEMU does.
 * @returns what the shim binds, the system included
 */
export function prepareQemuRoot(directory: string, binds: readonly Bind[]): Bind[] {
  const root = qemuRoot(directory)
  for (const name of ['', 'dev', 'dev/net', 'etc', SEEN_AT]) makeOpenDirectory(join(root, name))
  for (const { to } of binds) writeFileSync(join(root, to), '')
  const libraries = existsSync(LIBRARY_CACHE) ? [LIBRARY_CACHE] : []
  for (const path of libraries) writeFileSync(join(root, path), '')
  const system = SYSTEM.filter((path) => existsSync(path) && isPlace(root, path))
  return [...[...system, ...libraries].map((path) => ({ from: path, to: path })), ...binds].map(
    ({ from, to }) => ({
      from,
      to: join(root, to),
    }),
  )
}

/** Makes the directory, or the same link. */
function isPlace(root: string, path: string): boolean {
  const isLink = lstatSync(path).isSymbolicLink()
  if (isLink) symlinkSync(readlinkSync(path), join(root, path))
  else mkdirSync(join(root, path))
  return !isLink
}
