/**
 * Namespaces of the calling thread. JavaScript of one thread runs alone, so between entering and leaving nothing
 * else can observe the foreign namespace as long as `action` is synchronous: these take no async callback.
 */
import { closeSync, openSync, unlinkSync, writeFileSync } from 'node:fs'
import { checked, libcFunction } from './libc.ts'
import { MS_BIND, mount } from './mount.ts'

export const CLONE_NEWNS = 0x20000
export const CLONE_NEWCGROUP = 0x2000000
export const CLONE_NEWUTS = 0x4000000
export const CLONE_NEWIPC = 0x8000000
export const CLONE_NEWUSER = 0x10000000
export const CLONE_NEWPID = 0x20000000
export const CLONE_NEWNET = 0x40000000

const setnsCall = libcFunction('setns', 'int', ['int', 'int'])
const unshareCall = libcFunction('unshare', 'int', ['int'])
const sethostnameCall = libcFunction('sethostname', 'int', ['str', 'size_t'])

/** setns(2) of the calling thread. Mount and user namespaces cannot be entered by a threaded process (EINVAL). */
export function setns(namespaceFd: number, type: number): void {
  checked(setnsCall(namespaceFd, type), 'setns')
}

/** unshare(2) of the calling thread. */
export function unshare(flags: number): void {
  checked(unshareCall(flags), 'unshare')
}

/** Runs `action` with the calling thread in the network namespace at `path`, and always comes back. */
export function inNetworkNamespace<Result>(path: string, action: () => Result): Result {
  return inNamespace('net', CLONE_NEWNET, path, action)
}

/** Runs `action` with the calling thread in the UTS namespace at `path` (e.g. /proc/<pid>/ns/uts). */
export function inUtsNamespace<Result>(path: string, action: () => Result): Result {
  return inNamespace('uts', CLONE_NEWUTS, path, action)
}

/** Sets the host name of the UTS namespace at `utsPath`. Throws SystemError (EINVAL: longer than 64 bytes). */
export function setHostname(utsPath: string, hostname: string): void {
  const bytes = Buffer.byteLength(hostname)
  inUtsNamespace(utsPath, () => checked(sethostnameCall(hostname, bytes), 'sethostname', utsPath))
}

/**
 * Makes a new namespace that lives at `path` (a file is created there) without a process in it. The caller
 * unmounts and unlinks the file. Throws EEXIST when `path` exists.
 */
export function createNamespaceAt(kind: 'net' | 'uts' | 'ipc', type: number, path: string): void {
  writeFileSync(path, '', { flag: 'wx', mode: 0o444 })
  const home = openSync(`/proc/thread-self/ns/${kind}`, 'r')
  try {
    unshare(type)
    try {
      mount(`/proc/thread-self/ns/${kind}`, path, null, MS_BIND)
    } finally {
      returnHome(home, type)
    }
  } catch (error) {
    unlinkSync(path)
    throw error
  } finally {
    closeSync(home)
  }
}

function inNamespace<Result>(kind: string, type: number, path: string, action: () => Result): Result {
  const target = openSync(path, 'r')
  let home: number | undefined
  try {
    home = openSync(`/proc/thread-self/ns/${kind}`, 'r')
    setns(target, type)
    try {
      return action()
    } finally {
      returnHome(home, type)
    }
  } finally {
    closeSync(target)
    if (home !== undefined) closeSync(home)
  }
}

/** A thread that cannot come home would do all later work in a sandbox's namespace: better to die. */
function returnHome(home: number, type: number): void {
  try {
    setns(home, type)
  } catch (error) {
    process.stderr.write(`cannot leave a foreign namespace: ${String(error)}\n`)
    process.abort()
  }
}
