import { AgentClient } from '../agent/agent-client.ts'
import type {
  CapturedState,
  CaptureTarget,
  Engine,
  Instance,
  InstanceExit,
  Limits,
  Usage,
} from '../engines/engine.ts'
import type { Engines } from '../engines/engines.ts'
import { HostError } from '../host-error.ts'
import type { NetworkPolicy } from '../network/policy.ts'
import type { Slot } from '../slots/slots.ts'
import type { SnapshotConfig } from '../snapshots/snapshots.ts'
import type { Layer } from '../storage/layers.ts'
import type { Upper } from '../storage/uppers.ts'
import type { Admission, Reservation } from './admission.ts'
import { digestsOf, type Journal, type JournalEntry, type Occupant } from './journal.ts'
import { guestProcesses } from './limits.ts'
import type { SlotSource, UpperSource } from './parts.ts'
import { type Phases, phaseClock } from './phases.ts'

/**
 * A cell is a slot with something running in it: a user's sandbox, a pooled one, or a build. Opening makes its parts
 * in order, each journalled before it exists; closing undoes them in reverse. A cell has no policy and no name of its
 * own: `sandboxes.ts`, `pool.ts` and `builds/` decide what it is for.
 */

export interface CellPlan {
  occupant: Occupant
  engine: Engine
  sandboxId: string
  snapshotId: string
  templateId: string
  layers: readonly Layer[]
  limits: Limits
  /** Undefined boots cold. */
  memoryDir: string | undefined
  /** The agent's layer that the memory was captured with; undefined is the engine's own. */
  agentLayer?: Layer | undefined
  network: NetworkPolicy
  endAtMs: number | undefined
  onEnd: 'kill' | 'pause'
  config: SnapshotConfig
  /** Starts on a copy of these files; undefined starts with an empty upper. */
  base?: Upper | undefined
  consumesSnapshot?: boolean
  /** Default true. */
  pauseMemory?: boolean
}

/** Cleaning a slot holds up this thread for some milliseconds: whoever waits for the stop is answered first. */
const RECYCLE_AFTER_MS = 3

const TRUST_WITHIN_MS = 5_000

export interface CellParts {
  admission: Admission
  engines: Engines
  journal: Journal
  slots: SlotSource
  uppers: UpperSource
  /** Says that layers are in use, before they are. @throws HostError notFound when one is not there (any more) */
  claimLayers?: (digests: readonly string[]) => void
  nowMs: () => number
  /** Port of the agent; the standard one when absent. */
  agentPort?: number
  /** Multiplies the time that agents have to answer. Default 1. */
  timeScale?: number
  /** PEM of the authority behind the certificates that sandboxes with rules meet. */
  egressAuthorityPem?: string
}

type Plan = Omit<JournalEntry, 'version' | 'bootId' | 'slot' | 'upper' | 'initPid'>

export class Cell {
  readonly slot: Slot
  readonly upper: Upper
  readonly limits: Limits
  readonly agent: AgentClient
  readonly exited: Promise<InstanceExit>
  readonly engine: Engine
  readonly #parts: CellParts
  readonly #reservation: Reservation
  #plan: Plan
  #instance: Instance
  #networkChanges: Promise<void> = Promise.resolve()
  #isEnding = false
  #stopped: Promise<void> | undefined
  #released: Promise<void> | undefined

  constructor(parts: CellParts, plan: Plan, instance: Instance, upper: Upper, reservation: Reservation) {
    // Whoever opens or adopts a cell did it by this engine.
    this.engine = parts.engines.named(plan.engine)!
    this.#parts = parts
    this.#plan = plan
    this.#instance = instance
    this.#reservation = reservation
    this.slot = instance.slot
    this.upper = upper
    this.limits = plan.limits
    const { pids, memoryMib } = plan.limits
    const limits = { maxProcesses: guestProcesses(pids), maxTasks: pids, memoryMib }
    this.agent = new AgentClient(instance.slot.address, parts.agentPort, limits, parts.timeScale)
    this.exited = instance.exited
  }

  /** Where this machine reaches it. */
  get address(): string {
    return this.slot.address
  }

  get startedAtMs(): number {
    return this.#plan.startedAtMs
  }

  get instance(): Instance {
    return this.#instance
  }

  get layers(): readonly Layer[] {
    return this.#plan.layers
  }

  get agentDigest(): string | undefined {
    return this.#plan.agentDigest
  }

  get config(): SnapshotConfig {
    return this.#plan.config
  }

  /** Keeps memory, files or both while it stands still; see `Engine.capture`. */
  capture(into: CaptureTarget): Promise<CapturedState> {
    return this.engine.capture(this.#instance, into)
  }

  usage(): Promise<Usage> {
    return this.engine.usage(this.#instance)
  }

  /** Fails at once when the sandbox ends while something waits for it. */
  whileAlive<T>(work: Promise<T>): Promise<T> {
    const died = this.exited.then(({ status, outOfMemory, lastWords = '' }): never => {
      const why = outOfMemory ? 'out of memory' : `status ${status ?? 'unknown'}`
      const cause = new Error(`its last words${lastWords}`)
      throw new HostError('failed', `the sandbox ended by itself (${why})`, cause)
    })
    return Promise.race([work, died])
  }

  freeze(): Promise<void> {
    return this.engine.freeze(this.#instance)
  }

  thaw(): Promise<void> {
    return this.engine.thaw(this.#instance)
  }

  /** Makes a pooled cell a user's: its journal entry first, in one rename, then its name inside. */
  async assign(plan: CellPlan): Promise<void> {
    this.#change(planOf(plan, this.#parts.nowMs()))
    this.#parts.slots.setPolicy(this.slot, plan.network)
    this.#instance = await this.engine.rename(this.#instance, plan.sandboxId)
  }

  /** From here on the next daemon adopts it instead of undoing its start. */
  markReady(): void {
    this.#change({ isReady: true })
  }

  /** Takes `markReady` back: it was ended before anybody heard of it, and no later daemon may find it running. */
  disown(): void {
    this.#change({ isReady: false })
  }

  /** Keeps the end of life for the next daemon. */
  moveEnd(endAtMs: number): void {
    this.#change({ endAtMs })
  }

  /**
   * Replaces what it may reach, for new connections at once, and keeps it for the next daemon. Of two that cross the
   * later one holds, in the kernel as in the journal.
   */
  applyNetwork(network: NetworkPolicy): Promise<void> {
    const applied = this.#networkChanges.then(() => this.#applyNetwork(network))
    this.#networkChanges = applied.catch(() => {})
    return applied
  }

  async #applyNetwork(network: NetworkPolicy): Promise<void> {
    if (this.#isEnding) throw new HostError('wrongState', `sandbox '${this.#plan.sandboxId}' ends`)
    const before = this.#plan.network
    this.#change({ network })
    try {
      await this.trustRules()
      await this.#parts.slots.replacePolicy(this.slot, network)
    } catch (error) {
      if (!this.#isEnding) this.#change({ network: before })
      throw error
    }
  }

  /** Makes the sandbox trust the certificates that rules put before it; free without rules. @throws HostError failed */
  async trustRules(): Promise<void> {
    const certificate = this.#parts.egressAuthorityPem
    if (!this.#plan.network.rules || certificate === undefined) return
    const call = {
      method: 'POST',
      path: '/init/trust',
      json: { certificate },
      timeoutMs: TRUST_WITHIN_MS,
    } as const
    const { status, body } = await this.agent.send(call)
    if (status !== 204)
      throw new HostError('failed', `the agent answered /init/trust with ${status}: ${body.slice(0, 300)}`)
  }

  writeJournal(): void {
    this.#change({})
  }

  /** On the disk first: what could not be written is not so. */
  #change(part: Partial<Plan>): void {
    const plan = { ...this.#plan, ...part }
    const { slot, upper, initPid } = this.#instance
    this.#parts.journal.write({ ...plan, slot, upper, initPid })
    this.#plan = plan
  }

  /** Ends its processes and connections; with it every stream is reset. Idempotent; what failed may be tried again. */
  stop(): Promise<void> {
    this.#isEnding = true
    this.#stopped ??= (async () => {
      this.agent.close()
      await this.engine.stop(this.#instance)
    })().catch((error: unknown) => {
      this.#stopped = undefined
      throw error
    })
    return this.#stopped
  }

  /** After `stop`: what it wrote lies in its upper as a tree of files; see `Engine.layOutWritten`. */
  layOutWritten(): Promise<void> {
    return this.engine.layOutWritten(this.#instance)
  }

  /**
   * Gives upper and slot back to their owners, then forgets. Idempotent; stops first. What cannot be stopped is given
   * back as well: the owner of the slot kills what is in it for as long as it takes.
   */
  release(options: { keepUpper?: boolean } = {}): Promise<void> {
    this.#released ??= (async () => {
      let isCleared = false
      try {
        await this.stop().catch(() => this.stop())
        isCleared = true
      } finally {
        await new Promise((resolve) => setTimeout(resolve, RECYCLE_AFTER_MS))
        this.#reservation.release()
        giveBack(this.#parts, this.slot, options.keepUpper ? undefined : this.upper, { isCleared })
      }
    })()
    return this.#released
  }
}

/**
 * Opens a cell; what was made is undone when a step fails or `signal` says that it is no longer wanted.
 * @throws HostError noRoom before anything was made; whatever a part throws
 */
export async function openCell(
  parts: CellParts,
  plan: CellPlan,
  phases: Phases,
  signal?: AbortSignal,
): Promise<Cell> {
  const reservation = parts.admission.reserve(plan.limits)
  const measure = phaseClock(phases)
  const made: { slot?: Slot; upper?: Upper; instance?: Instance } = {}
  try {
    made.slot = await parts.slots.claim().catch(noRoom)
    measure('slot')
    // An empty one comes without a wait: between its taking and its journal entry nothing else may run.
    const { diskMib } = plan.limits
    made.upper = plan.base ? await cloneUpper(parts, plan.base, diskMib) : takeUpper(parts, diskMib)
    measure('upper')
    signal?.throwIfAborted()
    const base = planOf(plan, parts.nowMs())
    parts.claimLayers?.(digestsOf(base))
    parts.journal.write({ ...base, slot: made.slot, upper: made.upper, initPid: undefined })
    parts.uppers.recorded(made.upper)
    measure('journal')
    parts.slots.setPolicy(made.slot, plan.network)
    made.instance = await plan.engine.start({
      sandboxId: plan.sandboxId,
      slot: made.slot,
      layers: plan.layers,
      upper: made.upper,
      limits: plan.limits,
      hostname: plan.sandboxId,
      memoryDir: plan.memoryDir,
      agentLayer: plan.agentLayer,
    })
    measure('engine')
    signal?.throwIfAborted()
    const cell = new Cell(parts, base, made.instance, made.upper, reservation)
    cell.writeJournal()
    return cell
  } catch (error) {
    // What cannot be stopped is killed by the owner of its slot.
    const stopping = made.instance ? plan.engine.stop(made.instance) : Promise.resolve()
    const isCleared = await stopping.then(
      () => true,
      () => false,
    )
    reservation.release()
    giveBack(parts, made.slot, made.upper, { isCleared })
    throw error
  }
}

async function cloneUpper({ uppers }: CellParts, base: Upper, capMib: number): Promise<Upper> {
  try {
    uppers.assertRoom()
    return await uppers.clone(base, capMib)
  } catch (error) {
    return noRoom(error)
  }
}

function takeUpper({ uppers }: CellParts, capMib: number): Upper {
  try {
    uppers.assertRoom()
    return uppers.take(capMib)
  } catch (error) {
    return noRoom(error)
  }
}

/** Slots and disk run out as operating errors: the caller may try another host. */
function noRoom(error: unknown): never {
  throw new HostError('noRoom', `this host has no room: ${(error as Error).message}`, error)
}

/** A cell that an earlier daemon opened and that still runs. */
export async function adoptCell(parts: CellParts, entry: JournalEntry): Promise<Cell | undefined> {
  const engine = parts.engines.named(entry.engine)
  const instance = await engine?.adopt(entry)
  if (!engine || !instance) return undefined
  return new Cell(parts, entry, instance, entry.upper, parts.admission.recognise(entry.limits))
}

/**
 * The undo of everything before the engine. A slot that is in no journal entry is cleaned when slots are opened.
 * @param isCleared see `SlotSource.release`
 */
export function giveBack(
  parts: Pick<CellParts, 'uppers' | 'slots' | 'journal'>,
  slot: Slot | undefined,
  upper: Upper | undefined,
  { isCleared }: { isCleared: boolean },
): void {
  if (upper) parts.uppers.release(upper)
  if (!slot) return
  // The entry goes before the slot is free: the next occupant writes one of the same name.
  parts.journal.remove(slot.index)
  parts.slots.release(slot, { isCleared })
}

const planOf = (plan: CellPlan, startedAtMs: number): Plan => ({
  occupant: plan.occupant,
  sandboxId: plan.sandboxId,
  snapshotId: plan.snapshotId,
  templateId: plan.templateId,
  engine: plan.engine.name,
  layers: plan.layers,
  agentDigest: plan.agentLayer?.digest ?? plan.engine.agentDigest,
  limits: plan.limits,
  endAtMs: plan.endAtMs,
  onEnd: plan.onEnd,
  network: plan.network,
  config: plan.config,
  consumesSnapshot: plan.consumesSnapshot ?? false,
  pauseMemory: plan.pauseMemory ?? true,
  isReady: false,
  startedAtMs,
})
