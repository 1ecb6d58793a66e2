import { existsSync } from 'node:fs'
import type { Logger } from 'pino'
import type { InitBody } from '../agent/agent-client.ts'
import { bringServicesUp } from '../agent/services-up.ts'
import { type Cell, type CellParts, type CellPlan, openCell } from '../cells/cells.ts'
import type { AskedLimits } from '../cells/limits.ts'
import { type LayerSource, sameLimits } from '../cells/parts.ts'
import { type Phases, phaseClock } from '../cells/phases.ts'
import type { Isolation } from '../engines/engines.ts'
import { HostError } from '../host-error.ts'
import { isShortage } from '../linux/shortage.ts'
import { type NetworkPolicy, openPolicy } from '../network/policy.ts'
import type { KeptSnapshots } from '../snapshots/kept-snapshots.ts'
import type { ReadySnapshot, WarmSnapshots } from '../snapshots/warm-snapshots.ts'
import { cloneIdentity, resumedIdentity } from './clone-identity.ts'
import type { Foreground } from './foreground.ts'
import type { Pool } from './pool.ts'

/** The create path: a pooled sandbox is woken, or a slot, an upper and a journal entry are taken and memory restored. */

export interface StartRequest {
  sandboxId: string
  snapshotId: string
  templateId: string
  /** What is not asked for is the snapshot's own. */
  limits: AskedLimits
  envVars: Readonly<Record<string, string>>
  envdAccessToken: string | undefined
  network: NetworkPolicy
  endAtMs: number
  onEnd: 'kill' | 'pause'
  skipPool: boolean
  /** False boots the files of the snapshot, though it may have memory. Default true. */
  memory?: boolean
  /** The snapshot ends when the sandbox is ready: a resume. */
  consumesSnapshot?: boolean
  /** What a pause at the end keeps. Default true. */
  pauseMemory?: boolean
  /** Of a template's snapshot; default what it was built for. */
  isolation?: Isolation | undefined
}

export interface Started {
  cell: Cell
  fromPool: boolean
}

export interface StarterParts {
  cells: CellParts
  /** Snapshots of single sandboxes; they come before those of templates. */
  kept: KeptSnapshots
  layers: LayerSource
  snapshots: WarmSnapshots
  pool: Pool
  foreground: Foreground
  log: Logger
}

/** The agent of a restored clone answers in milliseconds; this bounds a broken one. */
const INIT_WITHIN_MS = 10_000
const BOOT_WITHIN_MS = 60_000

export class Starter {
  readonly #parts: StarterParts

  constructor(parts: StarterParts) {
    this.#parts = parts
  }

  /**
   * Answers once the agent has accepted `/init`; leaves nothing when it throws.
   * @param phases filled with the milliseconds of each phase
   * @throws HostError noRoom, notFound, failed; the reason of `signal`
   */
  start(request: StartRequest, phases: Phases, signal: AbortSignal): Promise<Started> {
    return this.#parts.foreground.run(async () => {
      const measure = phaseClock(phases)
      const snapshot = await this.#resolve(request)
      measure('snapshot')
      signal.throwIfAborted()
      const pooled = await this.#fromPool(request, snapshot, phases)
      const cell = pooled ?? (await this.#there(request, snapshot, phases, signal))
      try {
        signal.throwIfAborted()
        cell.markReady()
      } catch (error) {
        await cell.release()
        throw error
      }
      // The journal says first that it runs, then the snapshot goes: at no instant is there neither.
      if (request.consumesSnapshot) await this.#consume(request.snapshotId)
      return { cell, fromPool: pooled !== undefined }
    })
  }

  /** The sandbox runs by now, whatever is left of what it was. */
  async #consume(snapshotId: string): Promise<void> {
    try {
      await this.#parts.kept.delete(snapshotId)
    } catch (error) {
      this.#parts.log.error({ event: 'snapshot.left', snapshotId, err: error })
    }
  }

  async #resolve({ snapshotId, isolation, memory = true }: StartRequest): Promise<ReadySnapshot> {
    const { kept, layers, snapshots } = this.#parts
    const own = kept.get(snapshotId)
    if (own) return kept.ready(own, memory, layers)
    const snapshot = await snapshots.ready(snapshotId, isolation)
    return memory ? snapshot : { ...snapshot, memoryDir: undefined }
  }

  /** A sandbox that goes on where it was paused stays who it is; every other start is somebody new. */
  #identity(request: StartRequest, snapshot: ReadySnapshot): InitBody {
    const own = this.#parts.kept.get(snapshot.id)
    const goesOn = own?.isPause && own.sandboxId === request.sandboxId && snapshot.memoryDir !== undefined
    return goesOn ? resumedIdentity(request, snapshot.config) : cloneIdentity(request, snapshot.config)
  }

  /** A pooled sandbox that does not wake is dropped: the user gets a fresh one. */
  async #fromPool(request: StartRequest, snapshot: ReadySnapshot, phases: Phases): Promise<Cell | undefined> {
    const plan = planFor(request, snapshot)
    if (request.skipPool || snapshot.base || !snapshot.memoryDir || !sameLimits(plan.limits, snapshot.limits))
      return undefined
    const cell = this.#parts.pool.claim({ snapshotId: snapshot.id, engine: snapshot.engine.name })
    if (!cell) return undefined
    const measure = phaseClock(phases)
    try {
      await cell.assign(plan)
      measure('assign')
      await cell.thaw()
      measure('thaw')
      const identity = cloneIdentity(request, snapshot.config)
      await cell.whileAlive(cell.agent.init(identity, INIT_WITHIN_MS))
      await cell.whileAlive(cell.trustRules())
      measure('init')
      return cell
    } catch (error) {
      this.#parts.log.warn({
        event: 'pool.dropped',
        snapshotId: snapshot.id,
        slot: cell.slot.index,
        err: error,
      })
      await cell.release()
      return undefined
    }
  }

  /** Memory may be dropped while a start is on its way, also by another instance that shares it: it is made again. */
  async #there(
    request: StartRequest,
    snapshot: ReadySnapshot,
    phases: Phases,
    signal: AbortSignal,
  ): Promise<Cell> {
    const { id, engine, memoryDir, base } = snapshot
    try {
      return await this.#fresh(request, snapshot, phases, signal)
    } catch (error) {
      if (base || memoryDir === undefined || existsSync(memoryDir) || signal.aborted) throw error
      this.#parts.snapshots.vanished(id, engine)
      return await this.#fresh(request, await this.#resolve(request), phases, signal)
    }
  }

  async #fresh(
    request: StartRequest,
    snapshot: ReadySnapshot,
    phases: Phases,
    signal: AbortSignal,
  ): Promise<Cell> {
    const plan = planFor(request, snapshot)
    const cell = await this.#openYielding(plan, phases, signal)
    const measure = phaseClock(phases)
    try {
      const isBoot = snapshot.memoryDir === undefined
      const identity = this.#identity(request, snapshot)
      await cell.whileAlive(cell.agent.init(identity, isBoot ? BOOT_WITHIN_MS : INIT_WITHIN_MS))
      await cell.whileAlive(cell.trustRules())
      measure('init')
      if (isBoot) {
        await cell.whileAlive(bringServicesUp(cell.agent, snapshot.config, { signal }))
        measure('services')
      }
      return cell
    } catch (error) {
      await cell.release()
      throw error
    }
  }

  /** A create that finds no room takes that of a pooled sandbox. */
  async #openYielding(plan: CellPlan, phases: Phases, signal: AbortSignal): Promise<Cell> {
    try {
      const cell = await openCell(this.#parts.cells, plan, phases, signal)
      if (!plan.base) this.#parts.snapshots.restored(plan.snapshotId, plan.engine)
      return cell
    } catch (error) {
      if (!(error instanceof HostError) && !isShortage(error) && !signal.aborted && !plan.base)
        await this.#parts.snapshots.failed(plan.snapshotId, plan.engine)
      const isFull = error instanceof HostError && error.kind === 'noRoom'
      if (!isFull || !(await this.#parts.pool.yieldOne())) throw error
      return await openCell(this.#parts.cells, plan, phases, signal)
    }
  }
}

const planFor = (request: StartRequest, snapshot: ReadySnapshot): CellPlan => ({
  occupant: 'sandbox',
  engine: snapshot.engine,
  sandboxId: request.sandboxId,
  snapshotId: snapshot.id,
  templateId: request.templateId,
  layers: snapshot.layers,
  limits: { ...snapshot.limits, ...request.limits },
  memoryDir: snapshot.memoryDir,
  agentLayer: snapshot.agentLayer,
  network: request.network,
  endAtMs: request.endAtMs,
  onEnd: request.onEnd,
  config: snapshot.config,
  base: snapshot.base,
  consumesSnapshot: request.consumesSnapshot ?? false,
  pauseMemory: request.pauseMemory ?? true,
})

/** Restores one for the pool: its agent has answered once, then it waits frozen, without connections. */
export async function openPooled(
  cells: CellParts,
  snapshot: ReadySnapshot,
  sandboxId: string,
): Promise<Cell> {
  const plan: CellPlan = {
    occupant: 'pooled',
    engine: snapshot.engine,
    sandboxId,
    snapshotId: snapshot.id,
    templateId: '',
    layers: snapshot.layers,
    limits: snapshot.limits,
    memoryDir: snapshot.memoryDir,
    network: openPolicy,
    endAtMs: undefined,
    onEnd: 'kill',
    config: snapshot.config,
  }
  const cell = await openCell(cells, plan, {})
  try {
    // A whole introduction, not just a question: what it touches of the agent's memory is the clone's own afterwards.
    const nobody = { sandboxId, templateId: '', envVars: {}, envdAccessToken: undefined }
    await cell.whileAlive(cell.agent.init(cloneIdentity(nobody, snapshot.config), INIT_WITHIN_MS))
    cell.agent.disconnect()
    await cell.freeze()
    cell.markReady()
    return cell
  } catch (error) {
    await cell.release()
    throw error
  }
}
