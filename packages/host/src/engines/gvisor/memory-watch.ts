/**
 * Ends one greedy process of a sandbox before the sandbox as a whole meets the limit of its cgroup, where the machine's
 * kernel could only choose among the processes that carry it.
 *
 * The limit of the cgroup lies above what the sandbox may use; here is looked at how much is in use, more often the
 * less is left. Past it the address spaces that have grown are stopped, the sandbox's init is told to kill the greediest
 * process, and they go on: the killed one to its end.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import type { Cgroup } from '../../linux/cgroup.ts'
import { errorCode } from '../../linux/libc.ts'

const MIB = 2 ** 20
/** While there is room. */
const LOOK_MAX_MS = 250
const LOOK_MIN_MS = 10
/** Faster than any program fills memory here. */
const FILLS_MIB_PER_MS = 2
/** What is mapped may be less than what is used, so those that run now are stopped too: init, which waits, never is. */
const STOP_FROM_KIB = 16 * 1024
/** What it had is given back in the background; until then it looks as if nobody had died. */
const FREE_WITHIN_MS = 1_000
const FREE_LOOK_MS = 10
/** The sentry may wait for one that is stopped, and hear nothing meanwhile. */
const STOP_MAX_MS = 150
/** By this much others have gone on growing: there is no time to wait. */
const GROWS_MIB = 40
/** Below the limit by this much, the kill has helped. */
const HELPED_MIB = 8
/** The kernel's counts move by less without anybody's end. */
const NOISE_MIB = 1
/** Between attempts that freed nothing: what is full may be no process at all. */
const FUTILE_MAX_MS = 2_000

export interface WatchedMemory {
  cgroup: Cgroup
  /** What may be in use before a process is ended. */
  limitMib: number
  /** The process that is the kernel of the sandbox: it is never stopped. */
  kernelPid: number
  /** Keeps the number of processes that were ended, over restarts of the daemon. */
  killsFile: string
  /** Tells init to kill the greediest process. */
  relieve: () => Promise<unknown>
}

/** Of one sandbox, while it runs. */
export class MemoryWatch {
  readonly #watched: WatchedMemory
  #kills: number
  #futileMs = 0
  #isStopped = true
  #timer: NodeJS.Timeout | undefined

  constructor(watched: WatchedMemory) {
    this.#watched = watched
    this.#kills = readKills(watched.killsFile)
  }

  /** Processes that were ended so far. */
  get kills(): number {
    return this.#kills
  }

  /** Idempotent. */
  start(): void {
    if (!this.#isStopped) return
    this.#isStopped = false
    this.#lookIn(LOOK_MIN_MS)
  }

  /** Idempotent. */
  stop(): void {
    this.#isStopped = true
    clearTimeout(this.#timer)
  }

  #lookIn(ms: number): void {
    // One look follows the other, also when it was stopped and started during one.
    clearTimeout(this.#timer)
    if (this.#isStopped) return
    this.#timer = setTimeout(() => void this.#look(), ms)
    this.#timer.unref()
  }

  async #look(): Promise<void> {
    let nextMs = LOOK_MAX_MS
    try {
      const roomMib = this.#watched.limitMib - this.#heldMib()
      nextMs = Math.min(LOOK_MAX_MS, Math.max(LOOK_MIN_MS, roomMib / FILLS_MIB_PER_MS))
      if (roomMib <= 0) nextMs = await this.#endGreediest()
    } catch {
      // The sandbox ends at this moment; if not, the next look tells.
    }
    this.#lookIn(nextMs)
  }

  /** @returns when to look again */
  async #endGreediest(): Promise<number> {
    const { relieve, limitMib, killsFile } = this.#watched
    const before = this.#heldMib()
    const stopped = this.#stopGrown()
    const asked = relieve()
    try {
      await Promise.race([asked, delay(STOP_MAX_MS)])
    } finally {
      continueAll(stopped)
    }
    await asked
    const until = performance.now() + FREE_WITHIN_MS
    let held = before
    while (held > limitMib - HELPED_MIB && held < before + GROWS_MIB && performance.now() < until) {
      await delay(FREE_LOOK_MS)
      held = this.#heldMib()
    }
    if (this.#isStopped) return LOOK_MAX_MS
    if (held < before - NOISE_MIB) {
      this.#futileMs = 0
      writeFileSync(killsFile, String(++this.#kills))
      return 0
    }
    this.#futileMs = Math.min(FUTILE_MAX_MS, Math.max(LOOK_MIN_MS, this.#futileMs * 2))
    return this.#futileMs
  }

  #stopGrown(): number[] {
    const { cgroup, kernelPid } = this.#watched
    const grown = cgroup.pids().filter((pid) => pid !== kernelPid && grows(pid))
    for (const pid of grown) signal(pid, 'SIGSTOP')
    return grown
  }

  #heldMib(): number {
    const { cgroup, limitMib } = this.#watched
    return cgroup.heldMemoryBytes(limitMib * MIB) / MIB
  }
}

/** A daemon that ended between stop and go has left them standing. Harmless for all others. */
export function continueStopped(cgroup: Cgroup): void {
  continueAll(cgroup.pids())
}

function continueAll(pids: readonly number[]): void {
  for (const pid of pids) signal(pid, 'SIGCONT')
}

/** Whether an address space of the guest has or takes memory, which is one file. False for the file server. */
function grows(pid: number): boolean {
  let status: string
  try {
    status = readFileSync(`/proc/${pid}/status`, 'latin1')
  } catch {
    return false
  }
  const sharedKib = Number(/^RssShmem:\s+(\d+)/m.exec(status)?.[1] ?? 0)
  return sharedKib >= STOP_FROM_KIB || (sharedKib > 0 && /^State:\s+[RD]/m.test(status))
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch (error) {
    if (errorCode(error) !== 'ESRCH') throw error
  }
}

function readKills(path: string): number {
  try {
    return Number(readFileSync(path, 'utf8'))
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return 0
    throw error
  }
}
