import { closeSync, openSync, readdirSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { memoryInfo } from '@sandbox/contract/meminfo'
import { RUN_DIR } from './identity.ts'

const PAGE_KIB = 4
const KIB_PER_MIB = 1024
/** Looked at per refresh: a sandbox full of processes must not hold up the agent. */
const PROCESSES_LIMIT = 256

/**
 * The file that stands before `/proc/meminfo` where the kernel is the machine's, whose memory is not the sandbox's.
 * The engine makes it; where it does not, the kernel tells the truth and nothing is written. It is as of the last
 * `refresh`.
 */
export class MemoryFile {
  readonly #path: string
  /** Unknown until the host says it. */
  #limitMib: number | undefined

  constructor(rootDir: string) {
    this.#path = join(rootDir, RUN_DIR, 'meminfo')
  }

  /**
   * What the sandbox may use. A file that says so already is left alone: its first change costs a clone a copy of
   * the file, for which nobody should wait who creates a sandbox.
   */
  setLimit(limitMib: number): void {
    this.#limitMib = limitMib
    const totalKib = limitMib * KIB_PER_MIB
    const [totalLine = ''] = memoryInfo({ totalKib, freeKib: totalKib }).split('\n')
    if (!readExisting(this.#path).startsWith(totalLine)) this.refresh()
  }

  /** Writes what is used now. */
  refresh(): void {
    if (this.#limitMib === undefined) return
    const fd = openExisting(this.#path)
    if (fd === undefined) return
    try {
      const totalKib = this.#limitMib * KIB_PER_MIB
      writeSync(fd, memoryInfo({ totalKib, freeKib: Math.max(0, totalKib - usedKib()) }), 0)
    } catch {
      // The disk is full: the file keeps its last figures, and whoever is about to make room must be able to.
    } finally {
      closeSync(fd)
    }
  }
}

function readExisting(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}

function openExisting(path: string): number | undefined {
  try {
    return openSync(path, 'r+')
  } catch {
    return undefined
  }
}

/** What belongs to processes alone; files that they map can be read again. */
function usedKib(): number {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name))
  let pages = 0
  for (const pid of pids.slice(0, PROCESSES_LIMIT)) {
    const [, resident = 0, shared = 0] = statm(pid)
    pages += resident - shared
  }
  return pages * PAGE_KIB
}

function statm(pid: string): number[] {
  try {
    return readFileSync(`/proc/${pid}/statm`, 'latin1').split(' ').map(Number)
  } catch {
    return []
  }
}
