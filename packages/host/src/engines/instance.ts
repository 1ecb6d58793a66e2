import { closeSync, type FSWatcher, readFileSync, renameSync, watch, writeFileSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { errorCode } from '../linux/libc.ts'
import { pidfdOpen, pidfdSendSignal } from '../linux/pidfd.ts'
import { alive } from '../linux/process.ts'
import type { Slot } from '../slots/slots.ts'
import type { Upper } from '../storage/uppers.ts'
import type { Instance, InstanceExit } from './engine.ts'
import type { StartedInit } from './shim.ts'

const SIGKILL = 9
/** Only for a shim that somebody killed: nothing else can tell that init ended. */
const orphanCheckMs = 500

export interface InstanceParts {
  sandboxId: string
  slot: Slot
  upper: Upper
  init: StartedInit
  exited: Promise<InstanceExit>
}

/** A sandbox that ends with one process of this machine, which a shim watches. */
export class ProcessInstance implements Instance {
  readonly sandboxId: string
  readonly slot: Slot
  readonly upper: Upper
  readonly init: StartedInit
  readonly exited: Promise<InstanceExit>

  constructor(parts: InstanceParts) {
    this.sandboxId = parts.sandboxId
    this.slot = parts.slot
    this.upper = parts.upper
    this.init = parts.init
    this.exited = parts.exited
  }

  get initPid(): number {
    return this.init.pid
  }

  renamed(sandboxId: string): ProcessInstance {
    return new ProcessInstance({ ...this, sandboxId })
  }

  /** Kills init, and with it everything in its pid namespace. Answers false when it is gone already. */
  kill(): boolean {
    let pidfd: number
    try {
      pidfd = pidfdOpen(this.init.pid)
    } catch (error) {
      if (errorCode(error) === 'ESRCH' || errorCode(error) === 'EINVAL') return false
      throw error
    }
    try {
      // The descriptor is held first, so the pid cannot pass to another process between check and signal.
      if (!alive(this.init.pid, this.init.startTime)) return false
      return pidfdSendSignal(pidfd, SIGKILL)
    } finally {
      closeSync(pidfd)
    }
  }
}

/** What the shim writes about a sandbox: `PID START_TIME ID`. */
export interface StartedRecord extends StartedInit {
  sandboxId: string
}

export function readStarted(path: string): StartedRecord | undefined {
  const match = /^(\d+) (\d+) (\S+)\n$/.exec(readIfPresent(path) ?? '')
  if (!match) return undefined
  return { pid: Number(match[1]), startTime: Number(match[2]), sandboxId: match[3]! }
}

/** In one rename, as the shim does. */
export function writeStarted(path: string, record: StartedRecord): void {
  writeFileSync(`${path}.new`, `${record.pid} ${record.startTime} ${record.sandboxId}\n`, { mode: 0o600 })
  renameSync(`${path}.new`, path)
}

/** Status in the shim's exit file; undefined while there is none. */
export function readExitStatus(path: string): number | undefined {
  const text = readIfPresent(path)
  return text === undefined ? undefined : Number(text)
}

/**
 * Resolves with init's status when the shim has written it, or with undefined when init is gone and no shim was
 * left to say how. `shimEnded` resolves when the shim that this process started is gone.
 */
export async function watchExit(
  exitFile: string,
  init: StartedInit,
  shimEnded?: Promise<void>,
): Promise<number | undefined> {
  if (shimEnded) {
    await shimEnded
    const status = readExitStatus(exitFile)
    if (status !== undefined) return status
  }
  return await new Promise((resolve) => {
    let watcher: FSWatcher | undefined
    const check = (gone: boolean): void => {
      const status = readExitStatus(exitFile)
      if (status === undefined && !gone) return
      clearInterval(timer)
      watcher?.close()
      resolve(status)
    }
    const timer = setInterval(() => check(!alive(init.pid, init.startTime)), orphanCheckMs)
    timer.unref()
    watcher = watchName(exitFile, () => check(false))
    check(false)
  })
}

function watchName(path: string, changed: () => void): FSWatcher | undefined {
  try {
    const watcher = watch(dirname(path), { persistent: false }, (_, name) => {
      if (name === basename(path)) changed()
    })
    watcher.on('error', () => watcher.close())
    return watcher
  } catch (error) {
    // The slot's directory is gone: only the timer is left to notice.
    if (errorCode(error) === 'ENOENT') return undefined
    throw error
  }
}

function readIfPresent(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined
    throw error
  }
}

/** Waits for the end of something that was told to end. Throws after `timeoutMs`. */
export async function within(promise: Promise<unknown>, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`init is still there after ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
