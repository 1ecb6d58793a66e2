import { mkdirSync, readdirSync, readFileSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { EngineName, Limits } from '../engines/engine.ts'
import { HostError } from '../host-error.ts'
import { errorCode } from '../linux/libc.ts'
import { isDiskFull } from '../linux/shortage.ts'
import type { NetworkPolicy } from '../network/policy.ts'
import type { Slot } from '../slots/slots.ts'
import type { SnapshotConfig } from '../snapshots/snapshots.ts'
import type { Layer } from '../storage/layers.ts'
import type { Upper } from '../storage/uppers.ts'

/**
 * What runs on this machine, on disk before it exists in the kernel. One file per slot, because everything that
 * runs occupies exactly one slot: giving a pooled sandbox to a user replaces the file, in one rename.
 *
 * A write is a temporary file and a rename without fsync: it survives SIGKILL of the daemon at any instant (the
 * page cache is the kernel's). After a crash of the machine entries may be missing or old; then the kernel objects
 * are gone as well, and the boot id in each entry says so: entries of an earlier boot only name what to remove.
 * Files are readable by root only; the only secrets in them are those of the network settings.
 */

export type Occupant = 'sandbox' | 'pooled' | 'build'

export interface JournalEntry {
  readonly version: 1
  /** Kernel boot id at the time of writing. */
  readonly bootId: string
  readonly occupant: Occupant
  readonly sandboxId: string
  readonly snapshotId: string
  readonly engine: EngineName
  readonly slot: Slot
  readonly upper: Upper
  /** Bottom to top. */
  readonly layers: readonly Layer[]
  /** The agent's layer above them, where memory captured with an older one can be restored. */
  readonly agentDigest?: string | undefined
  readonly limits: Limits
  /** Undefined until the engine has answered: the start had not finished. */
  readonly initPid: number | undefined
  /** False until whoever asked for it was answered: such a start is undone by the next daemon. */
  readonly isReady: boolean
  readonly startedAtMs: number
  /** Undefined for what has no end of its own (pooled, build). */
  readonly endAtMs: number | undefined
  readonly onEnd: 'kill' | 'pause'
  /** What the sandbox calls its template; empty while pooled. */
  readonly templateId: string
  /** What it may reach; holds while no daemon runs, and is put back by the next. */
  readonly network: NetworkPolicy
  /** What a snapshot of it needs: the snapshot it was started from may be gone by then. */
  readonly config: SnapshotConfig
  /** It is a resume: the snapshot it was started from ends when it is ready. */
  readonly consumesSnapshot: boolean
  /** What a pause at the end of its life keeps. */
  readonly pauseMemory: boolean
}

/** Layers that something in the journal needs. */
export const digestsOf = ({
  layers,
  agentDigest,
}: Pick<JournalEntry, 'layers' | 'agentDigest'>): string[] => {
  const digests = layers.map(({ digest }) => digest)
  return agentDigest === undefined ? digests : [...digests, agentDigest]
}

export interface JournalContent {
  /** Entries of this boot. */
  readonly entries: readonly JournalEntry[]
  /** Names of files that belong to an earlier boot or cannot be read: nothing of them can be running. */
  readonly stale: readonly string[]
}

const ENTRY_FILE = /^(\d+)\.json$/

export class Journal {
  readonly #dir: string
  readonly #bootId: string

  /** @param dir made if missing, readable by root only */
  constructor(dir: string, bootId: string) {
    this.#dir = dir
    this.#bootId = bootId
    mkdirSync(dir, { recursive: true, mode: 0o700 })
  }

  /**
   * Replaces whatever was written for this slot, or leaves it as it was. Synchronous: ordering before the kernel
   * objects is the point. @throws HostError noRoom; whatever the disk refuses
   */
  write(entry: Omit<JournalEntry, 'version' | 'bootId'>): void {
    const complete: JournalEntry = { version: 1, bootId: this.#bootId, ...entry }
    const path = this.#path(entry.slot.index)
    try {
      writeFileSync(`${path}.new`, JSON.stringify(complete), { mode: 0o600 })
      renameSync(`${path}.new`, path)
    } catch (error) {
      unlinkIfThere(`${path}.new`)
      if (!isDiskFull(error)) throw error
      throw new HostError('noRoom', `the disk below ${this.#dir} is full: make room on it`, error)
    }
  }

  /** Idempotent. Called after everything the entry names is gone or back with its owner. */
  remove(slotIndex: number): void {
    unlinkIfThere(this.#path(slotIndex))
  }

  /** @throws what the disk refuses: a file that cannot be read says nothing about what runs */
  read(): JournalContent {
    const entries: JournalEntry[] = []
    const stale: string[] = []
    for (const name of readdirSync(this.#dir)) {
      const entry = ENTRY_FILE.test(name) ? parseEntry(join(this.#dir, name)) : undefined
      if (entry && entry.bootId === this.#bootId) entries.push(entry)
      else stale.push(name)
    }
    return { entries, stale }
  }

  /** Removes a file that `read` called stale. */
  removeStale(name: string): void {
    unlinkIfThere(join(this.#dir, name))
  }

  #path(slotIndex: number): string {
    return join(this.#dir, `${slotIndex}.json`)
  }
}

/** The kernel's id of this boot. */
export const readBootId = (): string => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()

function parseEntry(path: string): JournalEntry | undefined {
  const text = readIfThere(path)
  if (text === undefined) return undefined
  try {
    const value: unknown = JSON.parse(text)
    return isEntry(value) ? value : undefined
  } catch {
    return undefined
  }
}

/** Who reads the journal of a daemon that runs meets files that are gone since they were listed. */
function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error
    return undefined
  }
}

function isEntry(value: unknown): value is JournalEntry {
  if (typeof value !== 'object' || value === null) return false
  const entry = value as Partial<JournalEntry>
  return (
    entry.version === 1 &&
    typeof entry.bootId === 'string' &&
    typeof entry.sandboxId === 'string' &&
    typeof entry.slot?.index === 'number' &&
    typeof entry.upper?.id === 'string' &&
    typeof entry.network?.internet === 'boolean' &&
    typeof entry.config?.user === 'string' &&
    Array.isArray(entry.layers)
  )
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path)
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error
  }
}
