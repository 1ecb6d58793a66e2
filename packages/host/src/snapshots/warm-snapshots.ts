import type { LayerSource } from '../cells/parts.ts'
import type { Engine, Limits } from '../engines/engine.ts'
import type { Engines, Isolation } from '../engines/engines.ts'
import type { Layer } from '../storage/layers.ts'
import type { Upper } from '../storage/uppers.ts'
import { layerStack } from './layer-stack.ts'
import type { SnapshotConfig, SnapshotManifest, SnapshotStore } from './snapshots.ts'

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
  /** Boots the snapshot once on the engine, waits until it is ready, captures and publishes its memory. */
  captureMemory: (manifest: SnapshotManifest, engine: Engine) => Promise<void>
}

const FAILURES_UNTIL_REBUILD = 3

/**
 * Resolves snapshots for starts. The first start of a snapshot on an engine without memory for its class of host boots
 * it once and captures; all who ask meanwhile wait for that one capture.
 */
export class WarmSnapshots {
  readonly #parts: WarmSnapshotsParts
  readonly #failures = new Map<string, number>()
  readonly #ready = new Map<string, ReadySnapshot>()
  readonly #resolving = new Map<string, Promise<ReadySnapshot>>()

  constructor(parts: WarmSnapshotsParts) {
    this.#parts = parts
  }

  /**
   * @param isolation undefined takes the engine that the snapshot was built for
   * @throws HostError notFound, unsupported, or what boot and capture throw
   */
  ready(id: string, isolation?: Isolation): Promise<ReadySnapshot> | ReadySnapshot {
    const { store, engines } = this.#parts
    const manifest = store.known(id)
    if (!manifest) return store.manifest(id).then((read) => this.ready(read.id, isolation))
    const engine = engines.for(isolation ?? manifest.config.isolation)
    const key = keyOf(id, engine)
    const known = this.#ready.get(key)
    if (known) {
      store.used(id, engine.hostClass())
      return known
    }
    let resolving = this.#resolving.get(key)
    if (!resolving) {
      resolving = this.#resolve(manifest, engine).finally(() => this.#resolving.delete(key))
      this.#resolving.set(key, resolving)
    }
    return resolving
  }

  /** Its memory restored. */
  restored(id: string, engine: Engine): void {
    this.#failures.delete(keyOf(id, engine))
  }

  /** It did not. Memory that fails time after time is made anew from the layers, which is slow but never refused. */
  async failed(id: string, engine: Engine): Promise<void> {
    const key = keyOf(id, engine)
    const failures = (this.#failures.get(key) ?? 0) + 1
    this.#failures.set(key, failures)
    if (failures < FAILURES_UNTIL_REBUILD || !this.#ready.get(key)?.memoryDir) return
    this.#failures.delete(key)
    this.#ready.delete(key)
    await this.#parts.store.dropMemory(id, engine.hostClass())
  }

  /** Its memory is not where it was. */
  vanished(id: string, engine: Engine): void {
    this.#ready.delete(keyOf(id, engine))
    this.#parts.store.forgetMemory(id, engine.hostClass())
  }

  /** After its memory was dropped. */
  forget(id: string): void {
    for (const [key, ready] of this.#ready) if (ready.id === id) this.#ready.delete(key)
  }

  async #resolve(manifest: SnapshotManifest, engine: Engine): Promise<ReadySnapshot> {
    const { store } = this.#parts
    const { id, config } = manifest
    let memory = engine.canCapture ? await store.memory(id, engine.hostClass()) : undefined
    if (!memory && engine.canCapture) {
      await this.#parts.captureMemory(manifest, engine)
      memory = await store.memory(id, engine.hostClass())
    }
    const layers = layerStack(this.#parts.layers, memory?.layers ?? manifest.layers)
    const ready = { id, engine, config, limits: config.limits, layers, memoryDir: memory?.dir }
    this.#ready.set(keyOf(id, engine), ready)
    return ready
  }
}

const keyOf = (id: string, { name }: Engine): string => `${name} ${id}`
