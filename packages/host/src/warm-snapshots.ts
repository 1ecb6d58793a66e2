import type { Engine, Limits } from './engines/engine.ts'
import type { Engines } from './engines/engines.ts'
import { layerStack } from './layer-stack.ts'
import type { LayerSource } from './parts.ts'
import type { SnapshotConfig, SnapshotManifest, SnapshotStore } from './snapshots.ts'
import type { Layer } from './storage/layers.ts'
import type { Upper } from './storage/uppers.ts'

/** A snapshot with everything that a start needs, resolved on this machine. */
export interface ReadySnapshot {
  readonly id: string
  readonly engine: Engine
  readonly config: SnapshotConfig
  readonly limits: Limits
  /** Bottom to top. */
  readonly layers: readonly Layer[]
  /** Undefined only where the engine cannot capture: then every start boots. */
  readonly memoryDir: string | undefined
  /** The agent's layer that its memory was captured with; undefined is the engine's own. */
  readonly agentLayer?: Layer | undefined
  /** The files it has on top of its layers; a start gets a copy. Undefined starts with none. */
  readonly base?: Upper
}

export interface WarmSnapshotsParts {
  store: SnapshotStore
  layers: LayerSource
  engines: Engines
  /** Boots the snapshot once, waits until it is ready, captures and publishes its memory. */
  captureMemory: (manifest: SnapshotManifest) => Promise<void>
}

const FAILURES_UNTIL_REBUILD = 3

/**
 * Resolves snapshots for starts. The first start of a snapshot without memory for this host's class boots it once and
 * captures; all who ask meanwhile wait for that one capture.
 */
export class WarmSnapshots {
  readonly #parts: WarmSnapshotsParts
  readonly #failures = new Map<string, number>()
  readonly #ready = new Map<string, ReadySnapshot>()
  readonly #resolving = new Map<string, Promise<ReadySnapshot>>()

  constructor(parts: WarmSnapshotsParts) {
    this.#parts = parts
  }

  /** @throws HostError notFound, or what boot and capture throw */
  ready(id: string): Promise<ReadySnapshot> | ReadySnapshot {
    const known = this.#ready.get(id)
    if (known) return known
    let resolving = this.#resolving.get(id)
    if (!resolving) {
      resolving = this.#resolve(id).finally(() => this.#resolving.delete(id))
      this.#resolving.set(id, resolving)
    }
    return resolving
  }

  /** Its memory restored. */
  restored(id: string): void {
    this.#failures.delete(id)
  }

  /** It did not. Memory that fails time after time is made anew from the layers, which is slow but never refused. */
  async failed(id: string): Promise<void> {
    const failures = (this.#failures.get(id) ?? 0) + 1
    this.#failures.set(id, failures)
    const ready = this.#ready.get(id)
    if (failures < FAILURES_UNTIL_REBUILD || !ready?.memoryDir) return
    this.#failures.delete(id)
    this.forget(id)
    await this.#parts.store.dropMemory(id, ready.engine.hostClass())
  }

  /** After its memory was dropped. */
  forget(id: string): void {
    this.#ready.delete(id)
  }

  async #resolve(id: string): Promise<ReadySnapshot> {
    const { store, engines } = this.#parts
    const manifest = await store.manifest(id)
    const engine = engines.for(manifest.config.isolation)
    let memory = engine.canCapture ? await store.memory(id, engine.hostClass()) : undefined
    if (!memory && engine.canCapture) {
      await this.#parts.captureMemory(manifest)
      memory = await store.memory(id, engine.hostClass())
    }
    const layers = layerStack(this.#parts.layers, memory?.layers ?? manifest.layers)
    const { config } = manifest
    const ready = { id, engine, config, limits: config.limits, layers, memoryDir: memory?.dir }
    this.#ready.set(id, ready)
    return ready
  }
}
