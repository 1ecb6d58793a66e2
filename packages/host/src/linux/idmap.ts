/** User namespaces used as id maps, and mounts whose ids are translated by one. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, writeFileSync } from 'node:fs'
import { MOUNT_ATTR_RDONLY, mountSetattr, moveMount, openTree } from './mount.ts'

const handshakeTimeoutMs = 5_000
const cache = new Map<string, Promise<number>>()

/**
 * A descriptor of a user namespace that maps ids 0..size-1 to base..base+size-1 on the host. One for each range,
 * kept open until `releaseUserNamespace`; must be made ahead of the create path (it starts a process, about 5 ms).
 * Throws when `unshare` fails or the range is refused.
 */
export function userNamespaceFor(base: number, size = 65_536): Promise<number> {
  const key = `${base}:${size}`
  const known = cache.get(key)
  if (known) return known
  const made = makeUserNamespace(base, size)
  cache.set(key, made)
  made.catch(() => cache.delete(key))
  return made
}

/** Closes the cached descriptor of a range; mounts that use the namespace keep it alive. Idempotent. */
export async function releaseUserNamespace(base: number, size = 65_536): Promise<void> {
  const key = `${base}:${size}`
  const known = cache.get(key)
  cache.delete(key)
  if (known) closeSync(await known)
}

/** Mounts a copy of the mount at `source` onto `target` with ids translated through `usernsFd`. Throws SystemError. */
export function idmappedClone(
  source: string,
  target: string,
  usernsFd: number,
  options: { readOnly?: boolean } = {},
): void {
  const tree = idmappedTree(source, usernsFd, options)
  try {
    moveMount(tree, target)
  } finally {
    closeSync(tree)
  }
}

/** The same as a detached mount; the caller attaches it (`moveMount`) and closes the descriptor. */
export function idmappedTree(source: string, usernsFd: number, options: { readOnly?: boolean } = {}): number {
  const tree = openTree(source)
  try {
    mountSetattr(tree, { set: options.readOnly ? MOUNT_ATTR_RDONLY : 0, usernsFd })
    return tree
  } catch (error) {
    closeSync(tree)
    throw error
  }
}

/** A namespace lives as long as a process or descriptor holds it: `cat` holds it until the descriptor is open. */
async function makeUserNamespace(base: number, size: number): Promise<number> {
  const holder = spawn('unshare', ['--user', 'cat'], { stdio: ['pipe', 'pipe', 'pipe'] })
  const exited = once(holder, 'exit')
  // Without a descriptor left there is a child, and an error to come, but no streams.
  if (!holder.stdin) await exited
  let stderr = ''
  holder.stderr.on('data', (chunk: Buffer) => {
    if (stderr.length < 4096) stderr += chunk.toString()
  })
  // unshare may end before the byte is read; the exit, not EPIPE, tells why.
  holder.stdin.on('error', () => {})
  const timer = setTimeout(() => holder.kill('SIGKILL'), handshakeTimeoutMs)
  try {
    holder.stdin.write('\n')
    const echoed = once(holder.stdout, 'data').then(() => true)
    const ready = await Promise.race([echoed, exited.then(() => false)])
    if (!ready) throw new Error(`unshare --user failed: ${stderr.trim() || 'no output'}`)
    writeFileSync(`/proc/${holder.pid}/uid_map`, `0 ${base} ${size}\n`)
    writeFileSync(`/proc/${holder.pid}/gid_map`, `0 ${base} ${size}\n`)
    return openSync(`/proc/${holder.pid}/ns/user`, 'r')
  } finally {
    clearTimeout(timer)
    holder.stdin.end()
  }
}
