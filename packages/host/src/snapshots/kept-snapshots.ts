import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs'
import { mkdir, rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { randomName } from '@sandbox/contract/ids'
import type { LayerSource } from '../cells/parts.ts'
import type { Engine, EngineName, Limits } from '../engines/engine.ts'
import type { Engines } from '../engines/engines.ts'
import { HostError } from '../host-error.ts'
import { renameDurably, syncTree } from '../linux/durable.ts'
import type { Layer } from '../storage/layers.ts'
import type { Upper } from '../storage/uppers.ts'
import { layerStack } from './layer-stack.ts'
import type { SnapshotConfig } from './snapshots.ts'
import type { ReadySnapshot } from './warm-snapshots.ts'

/**
 * Snapshots of single sandboxes, paused or forked: layers, the upper as it was, and memory unless only files were
 * kept. They belong to this machine, whose uppers they name. Each is a folder that appears and disappears by one
 * rename; nothing in it changes between. One that was published is there after a loss of power; one that was deleted
 * may be there again if its upper is.
 */

/** What is known of a sandbox that is kept and does not run. */
export interface Paused {
  readonly sandboxId: string
  readonly snapshotId: string
  readonly hasMemory: boolean
  readonly agentUnresponsive: boolean
  readonly pausedAtMs: number
}

export interface KeptSnapshot {
  readonly version: 1
  readonly id: string
  readonly sandboxId: string
  /** Whose memory and upper these are: no other engine can start them. */
  readonly engine: EngineName
  /** True for a pause: the sandbox itself, not a copy of it. */
  readonly isPause: boolean
  /** Digests, bottom to top. */
  readonly layers: readonly string[]
  /** Nothing runs on it; it ends with the snapshot. */
  readonly upper: Upper
  /** The upper that the sandbox ran on: this run of it, and no other, was kept. */
  readonly ofUpperId: string
  readonly limits: Limits
  readonly config: SnapshotConfig
  /** Undefined when only files were kept. */
  readonly memory: KeptMemory | undefined
  readonly agentUnresponsive: boolean
  readonly createdAtMs: number
}

export interface KeptMemory {
  /** `Engine.memoryClass` of the sandbox. */
  readonly hostClass: string
  /** The agent's layer that it was captured with; undefined where only that of the engine itself can be restored. */
  readonly agentDigest?: string | undefined
  readonly sizeBytes: number
}

/** A snapshot in the making: the engine fills `memoryDir`. */
export interface KeptDraft {
  readonly root: string
  readonly memoryDir: string
}

export interface KeptUppers {
  has(upper: Upper): boolean
  /** What a deletion gives back, once nothing names it any more. */
  release(upper: Upper): void
}

const SNAPSHOT_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/
const DRAFTS = '.drafts'

export class KeptSnapshots {
  readonly #dir: string
  readonly #engines: Engines
  readonly #uppers: KeptUppers
  readonly #known = new Map<string, KeptSnapshot>()

  /** Reads what is there. @param dir of this instance alone, made if missing */
  constructor(dir: string, engines: Engines, uppers: KeptUppers) {
    this.#dir = dir
    this.#engines = engines
    this.#uppers = uppers
    mkdirSync(join(dir, DRAFTS), { recursive: true, mode: 0o700 })
    for (const id of readdirSync(dir)) {
      if (!SNAPSHOT_ID.test(id)) continue
      const snapshot = readManifest(join(dir, id, 'manifest.json'))
      // Without its files it is nothing: a deletion of which the disk knew only half.
      if (snapshot && uppers.has(snapshot.upper)) this.#known.set(id, snapshot)
      else renameSync(join(dir, id), join(dir, DRAFTS, randomName(16)))
    }
  }

  /** Removes what a killed daemon left unfinished. Before the first draft only. */
  async sweepUnfinished(): Promise<void> {
    const drafts = join(this.#dir, DRAFTS)
    for (const name of readdirSync(drafts)) await rm(join(drafts, name), { recursive: true, force: true })
  }

  get(id: string): KeptSnapshot | undefined {
    return this.#known.get(id)
  }

  /** The newest pause of a sandbox. */
  pauseOf(sandboxId: string): KeptSnapshot | undefined {
    let found: KeptSnapshot | undefined
    for (const one of this.#known.values()) {
      if (one.isPause && one.sandboxId === sandboxId && one.createdAtMs >= (found?.createdAtMs ?? 0))
        found = one
    }
    return found
  }

  paused(): Paused[] {
    return [...this.#known.values()].filter(({ isPause }) => isPause).map(pausedOf)
  }

  /** True when the sandbox that ran on this upper was paused: it runs no more, whatever the journal says. */
  isPaused(upperId: string): boolean {
    return [...this.#known.values()].some(({ isPause, ofUpperId }) => isPause && ofUpperId === upperId)
  }

  /** Layers that must stay, the agent's of before an upgrade among them. */
  layerDigests(): string[] {
    return [...this.#known.values()].flatMap(({ layers, memory }) =>
      memory?.agentDigest === undefined ? layers : [...layers, memory.agentDigest],
    )
  }

  /** Uppers that must stay. */
  upperIds(): Set<string> {
    return new Set([...this.#known.values()].map(({ upper }) => upper.id))
  }

  /** Where its images lie. */
  memoryDir(id: string): string {
    return join(this.#dir, id, 'images')
  }

  /** @throws HostError exists, invalid */
  async draft(id: string): Promise<KeptDraft> {
    if (!SNAPSHOT_ID.test(id)) throw new HostError('invalid', `'${id}' is no snapshot id`)
    if (this.#known.has(id)) throw new HostError('exists', `snapshot '${id}' exists already`)
    const root = join(this.#dir, DRAFTS, randomName(16))
    const memoryDir = join(root, 'images')
    await mkdir(memoryDir, { recursive: true, mode: 0o711 })
    return { root, memoryDir }
  }

  /**
   * The instant at which the snapshot exists: one rename, after all of it is on the disk. Its upper is, by the caller.
   * When this resolves a loss of power does not undo it.
   */
  async publish(draft: KeptDraft, snapshot: KeptSnapshot): Promise<void> {
    if (this.#known.has(snapshot.id))
      throw new HostError('exists', `snapshot '${snapshot.id}' exists already`)
    const text = `${JSON.stringify(snapshot, null, 2)}\n`
    await writeFile(join(draft.root, 'manifest.json'), text, { flag: 'wx', mode: 0o600 })
    await syncTree(draft.root)
    try {
      await renameDurably(draft.root, join(this.#dir, snapshot.id))
    } catch (error) {
      // Renamed but not synced: the caller goes on without it, so the next daemon must not find it either.
      if (!existsSync(draft.root)) await this.#remove(snapshot.id)
      throw error
    }
    this.#known.set(snapshot.id, snapshot)
  }

  async dropDraft(draft: KeptDraft): Promise<void> {
    await rm(draft.root, { recursive: true, force: true })
  }

  /** Sandboxes that run from it keep their pages and files. Idempotent. */
  async delete(id: string): Promise<void> {
    const snapshot = this.#known.get(id)
    if (!snapshot) return
    this.#known.delete(id)
    try {
      await this.#remove(id)
    } finally {
      this.#uppers.release(snapshot.upper)
    }
  }

  /** A disk without room for another name has none for a rename: without its manifest it is nothing, too. */
  async #remove(id: string): Promise<void> {
    const root = join(this.#dir, id)
    const grave = join(this.#dir, DRAFTS, randomName(16))
    const isBuried = await rename(root, grave).then(
      () => true,
      () => false,
    )
    if (!isBuried) await rm(join(root, 'manifest.json'), { force: true })
    await rm(isBuried ? grave : root, { recursive: true, force: true })
  }

  /**
   * What a start needs of it.
   * @param withMemory false boots its files
   * @throws HostError wrongState when its memory does not fit this machine any more; notFound for a missing layer
   */
  ready(snapshot: KeptSnapshot, withMemory: boolean, layers: LayerSource): ReadySnapshot {
    const { id, config, limits, memory } = snapshot
    const engine = this.#engines.for(snapshot.engine)
    const usesMemory = withMemory && memory !== undefined
    const agentLayer = usesMemory ? agentLayerOf(id, memory, engine, layers) : undefined
    return {
      id,
      engine,
      config,
      limits,
      layers: layerStack(layers, snapshot.layers),
      memoryDir: usesMemory ? this.memoryDir(id) : undefined,
      agentLayer,
      base: snapshot.upper,
    }
  }
}

/**
 * The agent's layer that memory needs, undefined for the engine's own: a sandbox that was kept before an upgrade goes on
 * with the agent that it was kept with.
 * @throws HostError wrongState when the memory does not fit this machine
 */
function agentLayerOf(
  id: string,
  memory: KeptMemory,
  engine: Engine,
  layers: LayerSource,
): Layer | undefined {
  const { hostClass, agentDigest } = memory
  const isOwn = agentDigest === undefined || agentDigest === engine.agentDigest
  const agentLayer = isOwn ? undefined : layers.get(agentDigest)
  if (engine.restores(hostClass, agentDigest) && (isOwn || agentLayer)) return agentLayer
  throw new HostError(
    'wrongState',
    `the memory of snapshot '${id}' was captured by another engine, kernel or agent and does not fit this host any ` +
      'more; its files do: start it without memory',
  )
}

export const pausedOf = (snapshot: KeptSnapshot): Paused => ({
  sandboxId: snapshot.sandboxId,
  snapshotId: snapshot.id,
  hasMemory: snapshot.memory !== undefined,
  agentUnresponsive: snapshot.agentUnresponsive,
  pausedAtMs: snapshot.createdAtMs,
})

/** @throws what the disk refuses: one that cannot be read now is no less a sandbox */
function readManifest(path: string): KeptSnapshot | undefined {
  if (!existsSync(path)) return undefined
  const text = readFileSync(path, 'utf8')
  try {
    return JSON.parse(text) as KeptSnapshot
  } catch {
    return undefined
  }
}
