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

/**
 * Which layers each instance needs that shares a folder of images: what its sandboxes run on and what its kept
 * snapshots name. One file an instance, replaced by one rename, so that whoever collects garbage sees what others need.
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
}

export class LayerReferences {
  readonly #dir: string
  readonly #owner: ReferenceOwner
  readonly #path: string
  #digests: ReadonlySet<string> = new Set()

  /** @param dir made if missing */
  constructor(dir: string, owner: ReferenceOwner) {
    this.#dir = dir
    this.#owner = owner
    this.#path = join(dir, `${owner.name}.json`)
    mkdirSync(dir, { recursive: true })
    this.#digests = new Set(readStored(this.#path)?.digests)
  }

  /** Adds what will be used; synchronous, and free for what is known. @returns whether any was new */
  claim(digests: readonly string[]): boolean {
    if (digests.every((digest) => this.#digests.has(digest))) return false
    this.#write(new Set([...this.#digests, ...digests]))
    return true
  }

  /** Needs exactly these from now on. @returns those that it needs no more */
  replace(digests: ReadonlySet<string>): string[] {
    const dropped = [...this.#digests].filter((digest) => !digests.has(digest))
    if (dropped.length > 0 || digests.size !== this.#digests.size) this.#write(digests)
    return dropped
  }

  /** What all instances need. @throws when one cannot be read: then nothing may be collected */
  ofAll(): Set<string> {
    const found = new Set<string>()
    for (const name of readdirSync(this.#dir).filter((file) => file.endsWith('.json'))) {
      const path = join(this.#dir, name)
      const stored = readStored(path)
      if (!stored) continue
      const isGone = stored.hostId === this.#owner.hostId && !existsSync(stored.stateDir)
      if (isGone) rmSync(path, { force: true })
      else for (const digest of stored.digests) found.add(digest)
    }
    return found
  }

  /** Needs nothing any more. */
  remove(): void {
    this.#digests = new Set()
    rmSync(this.#path, { force: true })
  }

  #write(digests: ReadonlySet<string>): void {
    const stored: Stored = { ...this.#owner, digests: [...digests].sort() }
    writeFileSync(`${this.#path}.new`, JSON.stringify(stored, null, 2), { flush: true })
    renameSync(`${this.#path}.new`, this.#path)
    const fd = openSync(this.#dir, 'r')
    try {
      fsyncSync(fd)
    } finally {
      closeSync(fd)
    }
    this.#digests = digests
  }
}

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
