import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { isShortage } from '../linux/shortage.ts'

/**
 * Which layers and snapshots of templates each instance needs that shares a folder of images: what its sandboxes run
 * on, what its kept snapshots name, what its control plane can start. One file an instance, replaced by one rename, so
 * that whoever collects garbage sees what others need.
 */

export interface ReferenceOwner {
  /** Of this instance alone among those that share the images. */
  readonly name: string
  readonly hostId: string
  /** Where the instance keeps its own: when it is gone from this host, so is the instance. */
  readonly stateDir: string
}

interface Stored extends ReferenceOwner {
  readonly digests: readonly string[]
  /** Ids; missing in what an older version wrote, which does not say. */
  readonly snapshots?: readonly string[]
}

export class LayerReferences {
  readonly #dir: string
  readonly #owner: ReferenceOwner
  readonly #path: string
  #digests: ReadonlySet<string> = new Set()
  #snapshots: ReadonlySet<string> = new Set()

  /** @param dir made if missing */
  constructor(dir: string, owner: ReferenceOwner) {
    this.#dir = dir
    this.#owner = owner
    this.#path = join(dir, `${owner.name}.json`)
    mkdirSync(dir, { recursive: true })
    const stored = readStored(this.#path)
    this.#digests = new Set(stored?.digests)
    this.#snapshots = new Set(stored?.snapshots)
  }

  /** Adds what will be used; synchronous, and free for what is known. @returns whether any was new */
  claim(digests: readonly string[]): boolean {
    if (digests.every((digest) => this.#digests.has(digest))) return false
    this.#write(new Set([...this.#digests, ...digests]), this.#snapshots)
    return true
  }

  /**
   * Needs exactly these from now on; on a full disk it goes on to name those from before, since what is collected makes
   * room there.
   * @param snapshots those needed until now where it is not known
   * @returns layers that it needs no more
   */
  replace(digests: ReadonlySet<string>, snapshots = this.#snapshots): string[] {
    const dropped = [...this.#digests].filter((digest) => !digests.has(digest))
    if (isSame(digests, this.#digests) && isSame(snapshots, this.#snapshots)) return dropped
    try {
      this.#write(digests, snapshots)
      return dropped
    } catch (error) {
      if (!isShortage(error)) throw error
      rmSync(`${this.#path}.new`, { force: true })
      return []
    }
  }

  /** Layers that all instances need. @throws when one cannot be read: then nothing may be collected */
  ofAll(): Set<string> {
    return new Set(this.#all().flatMap(({ digests }) => digests))
  }

  /** Snapshots that all instances need; undefined while one does not say. @throws when one cannot be read */
  snapshotsOfAll(): Set<string> | undefined {
    const all = this.#all().map(({ snapshots }) => snapshots)
    return all.some((snapshots) => !snapshots)
      ? undefined
      : new Set(all.flatMap((snapshots) => snapshots ?? []))
  }

  /** Needs no layer any more, and nothing at all where no snapshot is needed. */
  removeLayers(): void {
    if (this.#snapshots.size > 0) return void this.replace(new Set())
    this.#digests = new Set()
    rmSync(this.#path, { force: true })
  }

  #all(): Stored[] {
    const found: Stored[] = []
    for (const name of readdirSync(this.#dir).filter((file) => file.endsWith('.json'))) {
      const path = join(this.#dir, name)
      const stored = readStored(path)
      if (!stored) continue
      const isGone = stored.hostId === this.#owner.hostId && !existsSync(stored.stateDir)
      if (isGone) rmSync(path, { force: true })
      else found.push(stored)
    }
    return found
  }

  #write(digests: ReadonlySet<string>, snapshots: ReadonlySet<string>): void {
    const stored: Stored = {
      ...this.#owner,
      digests: [...digests].sort(),
      snapshots: [...snapshots].sort(),
    }
    writeFileSync(`${this.#path}.new`, JSON.stringify(stored, null, 2), { flush: true })
    renameSync(`${this.#path}.new`, this.#path)
    const fd = openSync(this.#dir, 'r')
    try {
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    this.#digests = digests
    this.#snapshots = snapshots
  }
}

const isSame = (a: ReadonlySet<string>, b: ReadonlySet<string>): boolean =>
  a.size === b.size && [...a].every((each) => b.has(each))

/** Undefined for one that is not there (any more). */
function readStored(path: string): Stored | undefined {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  return JSON.parse(text) as Stored
}
