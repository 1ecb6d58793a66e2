import { closeSync, existsSync, mkdirSync, openSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { HostError } from './host-error.ts'
import { tryLock } from './linux/file-lock.ts'
import { fileSystemOf } from './linux/file-system.ts'
import { MS_NODEV, MS_NOSUID, mount } from './linux/mount.ts'
import { mountTable, unmountTree } from './linux/mount-table.ts'

/** In a directory that this made: all of it goes with the instance. */
const OWNED = '.instance'

/** Makes the directory for what lives until the next boot, on a tmpfs: it holds no state worth a disk's wait. */
export function prepareRunDir(runDir: string): void {
  const isNew = mkdirSync(runDir, { recursive: true, mode: 0o755 }) !== undefined
  if (isNew) writeFileSync(join(runDir, OWNED), '')
  if (fileSystemOf(runDir).type === 'tmpfs') return
  mount('tmpfs', runDir, 'tmpfs', MS_NOSUID | MS_NODEV, 'mode=0755,size=256m')
}

/** Undoes `prepareRunDir` with every mount below. A directory that was there before keeps what others put there. */
export function removeRunDir(runDir: string): void {
  unmountTree(runDir)
  const isFree = !mountTable().some(({ target }) => target === runDir || target.startsWith(`${runDir}/`))
  try {
    if (isFree && existsSync(join(runDir, OWNED))) rmSync(runDir, { recursive: true, force: true })
    else rmdirSync(runDir)
  } catch {
    // Somebody else's files are in it, or a mount still in use: it stays.
  }
}

/**
 * Two daemons of one instance would each remove what the other made.
 * @returns what gives the lock back; the kernel does so when the process ends in any way
 * @throws HostError exists
 */
export function lockInstance(stateDir: string): () => void {
  mkdirSync(stateDir, { recursive: true, mode: 0o700 })
  const fd = openSync(join(stateDir, 'host.lock'), 'w', 0o600)
  if (!tryLock(fd)) {
    closeSync(fd)
    throw new HostError('exists', `another server runs with the state directory ${stateDir}`)
  }
  return () => closeSync(fd)
}
