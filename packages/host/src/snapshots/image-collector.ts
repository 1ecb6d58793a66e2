import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { StepCache } from '../builds/step-cache.ts'
import { tryLock } from '../linux/file-lock.ts'
import type { NeededSnapshots } from '../options.ts'
import type { LayerStore } from '../storage/layers.ts'
import type { LayerReferences } from './layer-references.ts'
import type { SnapshotStore } from './snapshots.ts'

/** Deletes what nobody needs of the images that several instances may share. */

export interface CollectorParts {
  imagesDir: string
  layers: LayerStore
  references: LayerReferences
  snapshots: SnapshotStore
  steps: StepCache
  /** Digests that this instance needs now: of what runs and of what it keeps. */
  ownDigests: () => Set<string>
  /** Those of them that are of the agent alone. */
  agentLayers: () => readonly string[]
  /** Snapshots that sandboxes of this instance were started from. */
  startedFrom: () => readonly string[]
  /** See `HostOptions`. */
  neededSnapshots?: (() => Promise<NeededSnapshots>) | undefined
  /** A snapshot is gone: nothing of it may be started any more. */
  onSnapshotGone: (id: string) => Promise<void>
  log: Logger
}

const COLLECT_EVERY_MS = 3_600_000

export class ImageCollector {
  readonly #parts: CollectorParts
  #timer: NodeJS.Timeout | undefined
  #collecting: Promise<void> = Promise.resolve()

  constructor(parts: CollectorParts) {
    this.#parts = parts
  }

  /** Now and every hour; not before everything that runs was adopted. */
  start(): void {
    const collect = (): void => {
      this.#collecting = collectImages(this.#parts).catch((error: unknown) => {
        this.#parts.log.error({ event: 'images.collected', err: error })
      })
    }
    this.#timer = setInterval(collect, COLLECT_EVERY_MS).unref()
    collect()
  }

  /** Of an instance that neither runs nor keeps anything nothing is left that others must look at. */
  async stop(): Promise<void> {
    clearInterval(this.#timer)
    await this.#collecting
    const { references, ownDigests, agentLayers } = this.#parts
    const own = ownDigests()
    references.replace(own)
    if (own.size <= new Set(agentLayers()).size) references.removeLayers()
  }
}

/** One that another instance is in the middle of is left to it. */
export async function collectImages(parts: CollectorParts): Promise<void> {
  const { imagesDir, layers, references, snapshots, steps, log } = parts
  const fd = openSync(join(imagesDir, '.collecting'), 'a')
  try {
    if (!tryLock(fd)) return
    for (const digest of references.replace(parts.ownDigests())) layers.unmount(digest)
    const manifests = await dropSnapshots(parts)
    const memories = await snapshots.dropForgotten()
    await steps.dropForgotten()
    const needed = async (): Promise<Set<string>> =>
      new Set([
        ...references.ofAll(),
        ...parts.ownDigests(),
        ...(await snapshots.layerDigests()),
        ...(await steps.layerDigests()),
      ])
    const gone = await layers.collectGarbage(needed)
    if (gone.length + memories + manifests.length > 0) {
      log.info({ event: 'images.collected', layers: gone, memories, snapshots: manifests })
    }
  } finally {
    closeSync(fd)
  }
}

/** Snapshots of templates that were replaced: no name leads to them, and nothing that runs came from them. */
async function dropSnapshots(parts: CollectorParts): Promise<string[]> {
  const { references, snapshots, neededSnapshots, ownDigests, startedFrom, onSnapshotGone } = parts
  if (!neededSnapshots) return []
  const needed = async (): Promise<Set<string>> => {
    const { published, own } = await neededSnapshots()
    const mine = new Set([...own, ...startedFrom()])
    references.replace(ownDigests(), mine)
    return new Set([...published, ...mine, ...(references.snapshotsOfAll() ?? snapshots.ids())])
  }
  const gone = await snapshots.dropUnneeded(needed)
  for (const id of gone) await onSnapshotGone(id)
  return gone
}
