import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { mkdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { randomName } from '@sandbox/contract/ids'
import type { Limits } from '../engines/engine.ts'
import type { Isolation } from '../engines/engines.ts'
import { HostError } from '../host-error.ts'
import { syncPath, syncTree, writeDurably } from '../linux/durable.ts'

/**
 * Snapshots on disk: `<dir>/<id>/manifest.json`, immutable, and `<dir>/<id>/memory/<host class>/` for each class of
 * host that captured it. Each appears by one rename, memory first, so that several daemons can share the folder and an
 * interrupted capture leaves nothing that looks whole. Manifests name layers, memory names the layers under it:
 * what the processes wrote before the capture is one more layer on top.
 */

export interface HttpHook {
  port: number
  path: string
}

/** What starts and readies a sandbox, and what its processes see. */
export interface SnapshotConfig {
  readonly envVars: Readonly<Record<string, string>>
  readonly user: string
  readonly workdir: string
  readonly startCmd: string
  readonly readyCmd: string
  /** Asked, in order, right before memory is captured; a refused connection means there is nobody to ask. */
  readonly beforeCapture: readonly HttpHook[]
  readonly limits: Limits
  /** Engine that the template asks for; without one the machine's own. */
  readonly isolation?: Isolation
}

export interface SnapshotManifest {
  readonly version: 1
  readonly id: string
  /** Digests, bottom to top, without the agent's layer. */
  readonly layers: readonly string[]
  readonly config: SnapshotConfig
  readonly createdAtMs: number
  readonly agentVersion: string
}

export interface SnapshotMemory {
  /** What the engine's `capture` wrote. */
  readonly dir: string
  /** Digests, bottom to top: the manifest's and what was written until the capture. */
  readonly layers: readonly string[]
  readonly sizeBytes: number
}

const SNAPSHOT_ID = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/

const MANIFEST_WITHIN_MS = 60 * 60_000
const FORGOTTEN_MS = 7 * 24 * 3_600_000

/** A capture in the making: the engine fills `dir`, `publish` makes it visible. */
export interface MemoryDraft {
  readonly dir: string
  readonly root: string
}

export class SnapshotStore {
  readonly #dir: string
  readonly #draftDir: string
  readonly #hostClasses: () => readonly string[]
  readonly #manifests = new Map<string, SnapshotManifest>()
  /** By the folder of the memory, as the times of last use. */
  readonly #memories = new Map<string, SnapshotMemory>()
  readonly #lastUsedMs = new Map<string, number>()

  /**
   * @param dir made if missing
   * @param hostClasses those of this host's engines: memory of others is not its business
   * @param owner names this daemon among those that share `dir`: drafts of that name are its own
   */
  constructor(dir: string, hostClasses: () => readonly string[], owner: string) {
    this.#dir = dir
    this.#draftDir = join(dir, '.drafts', fileName(owner))
    this.#hostClasses = hostClasses
    mkdirSync(this.#draftDir, { recursive: true, mode: 0o700 })
  }

  /** The manifest, when it was read before. */
  known(id: string): SnapshotManifest | undefined {
    return this.#manifests.get(id)
  }

  /** @throws HostError notFound */
  async manifest(id: string): Promise<SnapshotManifest> {
    const known = this.#manifests.get(id)
    if (known) return known
    const text = SNAPSHOT_ID.test(id) ? await readIfThere(join(this.#dir, id, 'manifest.json')) : undefined
    if (text === undefined) throw new HostError('notFound', `snapshot '${id}' is not on this host`)
    const manifest = JSON.parse(text) as SnapshotManifest
    this.#manifests.set(id, manifest)
    return manifest
  }

  has(id: string): boolean {
    return SNAPSHOT_ID.test(id) && existsSync(join(this.#dir, id, 'manifest.json'))
  }

  /** Makes a snapshot known, after its memory if it has any; one that is there already stays as it is. */
  async publish(manifest: SnapshotManifest): Promise<void> {
    if (!SNAPSHOT_ID.test(manifest.id)) throw new HostError('failed', `'${manifest.id}' is no snapshot id`)
    if (this.has(manifest.id)) return
    await mkdir(join(this.#dir, manifest.id), { recursive: true })
    await writeDurably(
      join(this.#dir, manifest.id, 'manifest.json'),
      `${JSON.stringify(manifest, null, 2)}\n`,
    )
    await syncPath(this.#dir)
  }

  /** The memory of this snapshot that fits a class of host, if it has been captured. */
  async memory(id: string, hostClass: string): Promise<SnapshotMemory | undefined> {
    const root = this.#memoryRoot(id, hostClass)
    const known = this.#memories.get(root)
    if (known) {
      this.used(id, hostClass)
      return known
    }
    const text = await readIfThere(join(root, 'memory.json'))
    if (text === undefined) return undefined
    const stored = JSON.parse(text) as Omit<SnapshotMemory, 'dir'>
    const memory = { ...stored, dir: join(root, 'images') }
    this.#memories.set(root, memory)
    this.#lastUsedMs.set(root, Date.now())
    return memory
  }

  /** Its memory was asked for: what was used last goes last. */
  used(id: string, hostClass: string): void {
    const root = this.#memoryRoot(id, hostClass)
    if (this.#memories.has(root)) this.#lastUsedMs.set(root, Date.now())
  }

  /** What is known of memory may not hold any more; the next question looks at the disk. */
  forgetMemory(id: string, hostClass: string): void {
    const root = this.#memoryRoot(id, hostClass)
    this.#memories.delete(root)
    this.#lastUsedMs.delete(root)
  }

  async draftMemory(): Promise<MemoryDraft> {
    const root = join(this.#draftDir, randomName(16))
    const dir = join(root, 'images')
    await mkdir(dir, { recursive: true, mode: 0o755 })
    return { root, dir }
  }

  async publishMemory(
    id: string,
    hostClass: string,
    draft: MemoryDraft,
    memory: Omit<SnapshotMemory, 'dir'>,
  ): Promise<void> {
    await writeFile(join(draft.root, 'memory.json'), `${JSON.stringify(memory, null, 2)}\n`)
    // Its name may be lost with the power, and it is captured again; what has the name must be whole.
    await syncTree(draft.root)
    await mkdir(join(this.#dir, id, 'memory'), { recursive: true })
    await renameUnlessThere(draft.root, this.#memoryRoot(id, hostClass))
  }

  async dropDraft(draft: MemoryDraft): Promise<void> {
    await rm(draft.root, { recursive: true, force: true })
  }

  /**
   * Removes what a killed daemon of the same owner left, and memory whose manifest never came. Before the first
   * capture only.
   */
  async sweepUnfinished(nowMs = Date.now()): Promise<void> {
    for (const name of readdirSync(this.#draftDir)) {
      await rm(join(this.#draftDir, name), { recursive: true, force: true })
    }
    for (const name of readdirSync(this.#dir)) {
      if (!SNAPSHOT_ID.test(name) || this.has(name)) continue
      const found = await stat(join(this.#dir, name)).catch(() => undefined)
      // Another daemon may be between the two.
      if (!found || nowMs - found.mtimeMs < MANIFEST_WITHIN_MS) continue
      await rm(join(this.#dir, name), { recursive: true, force: true })
    }
  }

  /** Ids of snapshots whose memory fits this host: they start warm. */
  warmIds(): string[] {
    return [...new Set(this.#held().map(({ id }) => id))]
  }

  ids(): string[] {
    return readdirSync(this.#dir).filter((name) => SNAPSHOT_ID.test(name) && this.has(name))
  }

  /**
   * Drops the least recently used memory of this host's engines until all of it is within `boundBytes`. Files and
   * manifests stay: memory is made again when it is asked for.
   * @returns ids whose memory was dropped
   */
  async evict(boundBytes: number, inUse: ReadonlySet<string>): Promise<string[]> {
    const held = await Promise.all(
      this.#held().map(async (one) => ({ ...one, ...(await this.#sizeAndUse(one)) })),
    )
    held.sort((a, b) => a.usedMs - b.usedMs)
    let total = held.reduce((sum, one) => sum + one.sizeBytes, 0)
    const dropped: string[] = []
    for (const one of held) {
      if (total <= boundBytes) break
      if (inUse.has(one.id)) continue
      await this.dropMemory(one.id, one.hostClass)
      dropped.push(one.id)
      total -= one.sizeBytes
    }
    return dropped
  }

  /** Forgets memory that turned out not to restore. Sandboxes that run from it keep their mapped pages. */
  async dropMemory(id: string, hostClass: string): Promise<void> {
    const root = this.#memoryRoot(id, hostClass)
    this.forgetMemory(id, hostClass)
    const grave = join(this.#draftDir, randomName(16))
    await rename(root, grave).catch(ignoreMissing)
    await rm(grave, { recursive: true, force: true })
  }

  /** Layers that manifests and memory name, of every class of host. */
  async layerDigests(): Promise<Set<string>> {
    const digests = new Set<string>()
    for (const path of this.#records()) {
      const text = await readIfThere(path)
      if (text === undefined) continue
      for (const digest of (JSON.parse(text) as Pick<SnapshotManifest, 'layers'>).layers) digests.add(digest)
    }
    return digests
  }

  /**
   * Drops memory of classes of host that are not this one's and that nobody has used for a week: of the agent, engine
   * or kernel before. @returns how many
   */
  async dropForgotten(nowMs = Date.now()): Promise<number> {
    const own = new Set(this.#hostClasses().map(fileName))
    let dropped = 0
    for (const path of this.#records().filter((record) => record.endsWith('/memory.json'))) {
      const root = dirname(path)
      const found = own.has(basename(root)) ? undefined : await stat(path).catch(() => undefined)
      if (!found || nowMs - found.mtimeMs < FORGOTTEN_MS) continue
      const grave = join(this.#draftDir, randomName(16))
      await rename(root, grave).catch(ignoreMissing)
      await rm(grave, { recursive: true, force: true })
      dropped++
    }
    return dropped
  }

  /**
   * Deletes snapshots that `needed` does not name and that nobody has started for a week, with all their memory. It is
   * asked twice, as layers are: see `LayerStore.collectGarbage`. @returns ids that are gone
   */
  async dropUnneeded(needed: () => Promise<ReadonlySet<string>>, nowMs = Date.now()): Promise<string[]> {
    const before = await needed()
    const graves: { id: string; grave: string }[] = []
    for (const id of this.ids()) {
      if (before.has(id) || nowMs - (await this.#usedMs(id)) < FORGOTTEN_MS) continue
      const grave = join(this.#draftDir, randomName(16))
      await rename(join(this.#dir, id), grave).catch(ignoreMissing)
      graves.push({ id, grave })
    }
    if (graves.length === 0) return []
    const after = await needed()
    const gone: string[] = []
    for (const { id, grave } of graves) {
      if (after.has(id)) await renameUnlessThere(grave, join(this.#dir, id))
      else {
        await rm(grave, { recursive: true, force: true })
        this.#forget(id)
        gone.push(id)
      }
    }
    return gone
  }

  #forget(id: string): void {
    this.#manifests.delete(id)
    const memories = join(this.#dir, id, 'memory')
    for (const root of this.#memories.keys()) {
      if (dirname(root) !== memories) continue
      this.#memories.delete(root)
      this.#lastUsedMs.delete(root)
    }
  }

  /** When it was published, started or captured last, by any daemon. */
  async #usedMs(id: string): Promise<number> {
    const records = this.#records().filter((path) => path.startsWith(`${join(this.#dir, id)}/`))
    const times = await Promise.all(records.map((path) => stat(path).catch(() => undefined)))
    const roots = records.map((path) => this.#lastUsedMs.get(dirname(path)) ?? 0)
    return Math.max(...roots, ...times.map((found) => found?.mtimeMs ?? 0))
  }

  #records(): string[] {
    const ids = readdirSync(this.#dir).filter((name) => SNAPSHOT_ID.test(name))
    return ids.flatMap((id) => {
      const memories = join(this.#dir, id, 'memory')
      const classes = existsSync(memories) ? readdirSync(memories) : []
      return [
        join(this.#dir, id, 'manifest.json'),
        ...classes.map((name) => join(memories, name, 'memory.json')),
      ]
    })
  }

  /** Writes the time of last use where the next daemon finds it. */
  async keepUse(): Promise<void> {
    for (const [root, usedMs] of this.#lastUsedMs) {
      await utimes(join(root, 'memory.json'), usedMs / 1000, usedMs / 1000).catch(ignoreMissing)
    }
  }

  #held(): Held[] {
    const classes = this.#hostClasses()
    return this.ids().flatMap((id) =>
      classes
        .filter((hostClass) => existsSync(join(this.#memoryRoot(id, hostClass), 'memory.json')))
        .map((hostClass) => ({ id, hostClass })),
    )
  }

  async #sizeAndUse({ id, hostClass }: Held): Promise<{ sizeBytes: number; usedMs: number }> {
    const root = this.#memoryRoot(id, hostClass)
    const path = join(root, 'memory.json')
    const [text, found] = await Promise.all([readFile(path, 'utf8'), stat(path)])
    const { sizeBytes } = JSON.parse(text) as SnapshotMemory
    return { sizeBytes, usedMs: Math.max(found.mtimeMs, this.#lastUsedMs.get(root) ?? 0) }
  }

  #memoryRoot(id: string, hostClass: string): string {
    return join(this.#dir, id, 'memory', fileName(hostClass))
  }
}

/** Memory that lies here. */
interface Held {
  id: string
  hostClass: string
}

/** A host class as a folder name: itself if it is plain, else its hash. */
const fileName = (hostClass: string): string =>
  /^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$/.test(hostClass)
    ? hostClass
    : createHash('sha256').update(hostClass).digest('hex').slice(0, 32)

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    ignoreMissing(error)
    return undefined
  }
}

/** Whoever publishes first wins; both captured the same thing. */
async function renameUnlessThere(from: string, to: string): Promise<void> {
  try {
    await rename(from, to)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error
    await rm(from, { recursive: true, force: true })
  }
}

function ignoreMissing(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
}
