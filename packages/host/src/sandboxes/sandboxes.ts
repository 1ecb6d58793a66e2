import { randomName } from '@sandbox/contract/ids'
import type { Logger } from 'pino'
import type { Cell } from '../cells/cells.ts'
import type { JournalEntry } from '../cells/journal.ts'
import type { Phases } from '../cells/phases.ts'
import type { InstanceExit } from '../engines/engine.ts'
import { HostError } from '../host-error.ts'
import type { NetworkPolicy } from '../network/policy.ts'
import type { KeepRequest } from '../snapshots/keeper.ts'
import { type KeptSnapshot, type KeptSnapshots, type Paused, pausedOf } from '../snapshots/kept-snapshots.ts'
import type { Started, StartRequest } from '../starting/start.ts'
import { Events } from './events.ts'
import { RecentIds } from './recent-ids.ts'
import { newRecord, pauseRetryMs, type SandboxRecord } from './sandbox-record.ts'
import { assertMove, type EndReason, type SandboxState } from './sandbox-states.ts'
import { type SandboxView, viewOf } from './sandbox-view.ts'
import { type Clock, EndTimers, systemClock } from './timers.ts'

/**
 * The running sandboxes of this machine, and the only writer of their states. Each sandbox goes through its
 * transitions one at a time; a kill is accepted in every state and joins one that is under way.
 */

export interface SandboxesParts {
  /** Makes a cell that answers, or throws and leaves nothing. */
  start: (request: StartRequest, phases: Phases, signal: AbortSignal) => Promise<Started>
  /** Makes a snapshot, or throws and the sandbox goes on. */
  keep: (sandboxId: string, cell: Cell, request: KeepRequest) => Promise<KeptSnapshot>
  kept: Pick<KeptSnapshots, 'pauseOf' | 'delete'>
  log: Logger
  clock?: Clock
}

export interface PauseOptions {
  memory: boolean
  /** Refuse when the agent does not answer. */
  needsAgent: boolean
}

/** So many ended sandboxes are remembered: a repeated stop is no error. */
const REMEMBERED_ENDS = 10_000

export class Sandboxes {
  readonly events = new Events()
  readonly #parts: SandboxesParts
  readonly #clock: Clock
  readonly #timers: EndTimers
  readonly #sandboxes = new Map<string, SandboxRecord>()
  readonly #endedIds = new RecentIds(REMEMBERED_ENDS)
  readonly #releasing = new Set<Promise<void>>()
  #closing = false

  constructor(parts: SandboxesParts) {
    this.#parts = parts
    this.#clock = parts.clock ?? systemClock
    this.#timers = new EndTimers((id) => this.#reachedEnd(id), this.#clock)
  }

  /** @throws HostError exists, noRoom, notFound, failed */
  async start(request: StartRequest): Promise<{ view: SandboxView; fromPool: boolean }> {
    if (this.#closing) throw new HostError('noRoom', 'this host is shutting down')
    if (this.#sandboxes.has(request.sandboxId)) {
      throw new HostError('exists', `sandbox '${request.sandboxId}' exists already`)
    }
    const settle = Promise.withResolvers<void>()
    const { sandboxId: id, snapshotId, onEnd, pauseMemory = true, endAtMs } = request
    const sandbox = newRecord({
      id,
      snapshotId,
      onEnd,
      pauseMemory,
      endAtMs,
      cell: undefined,
      settled: settle.promise,
    })
    this.#endedIds.delete(sandbox.id)
    this.#sandboxes.set(sandbox.id, sandbox)
    try {
      return await this.#bringUp(sandbox, request)
    } finally {
      settle.resolve()
    }
  }

  /** Takes in a sandbox that an earlier daemon started and that still runs. */
  adopt(entry: JournalEntry, cell: Cell): void {
    const { sandboxId: id, snapshotId, onEnd, pauseMemory, endAtMs = this.#clock.nowMs() } = entry
    const settled = Promise.resolve()
    const sandbox = newRecord({ id, snapshotId, onEnd, pauseMemory, endAtMs, cell, settled })
    this.#sandboxes.set(sandbox.id, sandbox)
    this.#run(sandbox, cell)
  }

  /**
   * Resolves when its processes are gone and its streams are reset; of a paused one, when its snapshot is deleted.
   * @throws HostError notFound
   */
  async kill(sandboxId: string, reason: EndReason = 'killed'): Promise<void> {
    const sandbox = this.#sandboxes.get(sandboxId)
    if (sandbox) await this.#end(sandbox, reason)
    const pause = this.#parts.kept.pauseOf(sandboxId)
    if (pause) {
      await this.#parts.kept.delete(pause.id)
      this.#endedIds.add(sandboxId)
    } else if (!sandbox && !this.#endedIds.has(sandboxId)) throw notHere(sandboxId)
  }

  /**
   * Keeps a running sandbox and ends it.
   * @throws HostError notFound, busy, noRoom, unavailable; the sandbox runs then
   */
  async pause(sandboxId: string, options: PauseOptions): Promise<Paused> {
    const { sandbox, cell } = this.#still(sandboxId)
    try {
      return await this.#pause(sandbox, cell, options)
    } catch (error) {
      this.#pauseFailed(sandbox, error)
      throw error
    }
  }

  #pause(sandbox: SandboxRecord, cell: Cell, options: PauseOptions): Promise<Paused> {
    const { id: sandboxId } = sandbox
    const { memory, needsAgent } = options
    const id = `p${randomName(20)}`
    this.#timers.clear(sandboxId)
    this.events.publish({ kind: 'pausing', sandboxId })
    return this.#whileKept(sandbox, 'pausing', async (signal) => {
      const snapshot = await this.#parts.keep(sandboxId, cell, {
        id,
        memory,
        needsAgent,
        isPause: true,
        signal,
      })
      if (sandbox.state !== 'pausing') {
        await this.#parts.kept.delete(id)
        throw new HostError('failed', `sandbox '${sandboxId}' was killed while it was pausing`)
      }
      const paused = pausedOf(snapshot)
      this.#releaseLater(sandbox, { keepUpper: snapshot.upper.id === cell.upper.id })
      this.#move(sandbox, 'gone')
      this.#sandboxes.delete(sandboxId)
      this.events.publish({ kind: 'ended', sandboxId, reason: 'paused', atMs: paused.pausedAtMs, paused })
      this.#parts.log.info({ event: 'sandbox.end', reason: 'paused', ...paused })
      return paused
    })
  }

  /**
   * Keeps a running sandbox as it is; it goes on.
   * @throws HostError notFound, busy, exists, invalid, noRoom, unavailable
   */
  async snapshot(sandboxId: string, id: string, memory: boolean): Promise<KeptSnapshot> {
    const { sandbox, cell } = this.#still(sandboxId)
    return this.#whileKept(sandbox, 'snapshotting', (signal) =>
      this.#parts.keep(sandboxId, cell, { id, memory, needsAgent: !memory, isPause: false, signal }),
    )
  }

  /** @returns the end that holds now. @throws HostError notFound, wrongState */
  setEnd(sandboxId: string, endAtMs: number, extendOnly: boolean): number {
    const { sandbox, cell } = this.#running(sandboxId)
    if (extendOnly && endAtMs <= sandbox.endAtMs) return sandbox.endAtMs
    cell.moveEnd(endAtMs)
    sandbox.endAtMs = endAtMs
    sandbox.pauseFailures = 0
    this.#timers.set(sandboxId, endAtMs)
    return endAtMs
  }

  /** Replaces what it may reach, for new connections at once. @throws HostError notFound, wrongState */
  async applyNetwork(sandboxId: string, policy: NetworkPolicy): Promise<void> {
    await this.#running(sandboxId).cell.applyNetwork(policy)
  }

  /** Everything past its start. */
  list(): SandboxView[] {
    return [...this.#sandboxes.values()].flatMap((sandbox) => (sandbox.cell ? [viewOf(sandbox)] : []))
  }

  /** What runs, for readings. */
  cells(): [sandboxId: string, cell: Cell][] {
    return [...this.#sandboxes.values()].flatMap(({ id, cell, state }) =>
      cell && state !== 'killing' ? [[id, cell] as [string, Cell]] : [],
    )
  }

  get count(): number {
    return this.#sandboxes.size
  }

  /** Refuses new starts, lets those under way finish, and ends all or leaves all running. */
  async close(keep: boolean): Promise<void> {
    this.#closing = true
    const all = [...this.#sandboxes.values()]
    if (keep) await Promise.all(all.map((sandbox) => sandbox.settled))
    else await Promise.all(all.map((sandbox) => this.#end(sandbox, 'killed')))
    this.#timers.close()
    await Promise.all(this.#releasing)
    this.events.close()
  }

  /** One that nothing else is being done with. */
  #still(sandboxId: string): { sandbox: SandboxRecord; cell: Cell } {
    const sandbox = this.#sandboxes.get(sandboxId)
    if (!sandbox) throw notHere(sandboxId)
    const { state, cell } = sandbox
    if (state !== 'running' || !cell) throw new HostError('busy', `sandbox '${sandboxId}' is ${state}`)
    return { sandbox, cell }
  }

  /** What came meanwhile is looked at afterwards: an end of its own, or of its time. A kill gives the work up. */
  async #whileKept<T>(
    sandbox: SandboxRecord,
    state: 'pausing' | 'snapshotting',
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const settle = Promise.withResolvers<void>()
    sandbox.settled = settle.promise
    this.#move(sandbox, state)
    try {
      return await work(sandbox.abort.signal)
    } finally {
      if (sandbox.state === state) {
        this.#move(sandbox, 'running')
        if (sandbox.exit) this.#onExit(sandbox, sandbox.exit)
        else this.#timers.set(sandbox.id, sandbox.endAtMs)
      }
      settle.resolve()
    }
  }

  #running(sandboxId: string): { sandbox: SandboxRecord; cell: Cell } {
    const sandbox = this.#sandboxes.get(sandboxId)
    if (!sandbox) throw notHere(sandboxId)
    const { state, cell } = sandbox
    if (state !== 'running' || !cell) throw new HostError('wrongState', `sandbox '${sandboxId}' is ${state}`)
    return { sandbox, cell }
  }

  async #bringUp(
    sandbox: SandboxRecord,
    request: StartRequest,
  ): Promise<{ view: SandboxView; fromPool: boolean }> {
    const startMs = performance.now()
    const phases: Phases = {}
    const line = { event: 'sandbox.start', sandboxId: sandbox.id, snapshotId: sandbox.snapshotId, phases }
    try {
      const { cell, fromPool } = await this.#parts.start(request, phases, sandbox.abort.signal)
      sandbox.cell = cell
      // A kill may have come while the last answer was on its way.
      if (sandbox.state !== 'starting') {
        await releaseUnheardOf(cell)
        throw new HostError('failed', `sandbox '${sandbox.id}' was killed while it was starting`)
      }
      this.#run(sandbox, cell)
      const { engine, slot } = cell
      this.#parts.log.info({
        ...line,
        engine: engine.name,
        fromPool,
        slot: slot.index,
        totalMs: since(startMs),
      })
      return { view: viewOf(sandbox), fromPool }
    } catch (error) {
      if (sandbox.state === 'starting') {
        this.#move(sandbox, 'killing')
        this.#forget(sandbox)
      }
      this.#parts.log.warn({ ...line, totalMs: since(startMs), err: error })
      throw error
    }
  }

  #run(sandbox: SandboxRecord, cell: Cell): void {
    this.#move(sandbox, 'running')
    this.#timers.set(sandbox.id, sandbox.endAtMs)
    cell.exited.then((exit) => this.#onExit(sandbox, exit))
    this.events.publish({ kind: 'started', sandbox: viewOf(sandbox) })
  }

  #onExit(sandbox: SandboxRecord, exit: InstanceExit): void {
    sandbox.exit = exit
    if (sandbox.ended || sandbox.state !== 'running') return
    this.#endLater(sandbox, exit.outOfMemory ? 'out_of_memory' : 'exited')
  }

  /** The one place that decides what the end of a sandbox's time means. */
  #reachedEnd(sandboxId: string): void {
    const sandbox = this.#sandboxes.get(sandboxId)
    // A snapshot under way comes back to it.
    if (sandbox?.state !== 'running') return
    if (sandbox.onEnd === 'kill') this.#endLater(sandbox, 'timeout')
    else if (sandbox.cell) this.#pauseLater(sandbox, sandbox.cell)
  }

  /** Nobody is there to decide otherwise: an agent that does not answer is kept as it is. */
  #pauseLater(sandbox: SandboxRecord, cell: Cell): void {
    const { id: sandboxId, pauseMemory: memory } = sandbox
    this.#pause(sandbox, cell, { memory, needsAgent: false }).catch((error: unknown) => {
      this.#parts.log.error({ event: 'sandbox.pause', sandboxId, err: error })
      this.#pauseFailed(sandbox, error, this.#clock.nowMs() + pauseRetryMs(++sandbox.pauseFailures))
    })
  }

  /** One that ended meanwhile has its end told instead. */
  #pauseFailed({ id: sandboxId, state }: SandboxRecord, error: unknown, retryAtMs?: number): void {
    if (state !== 'running') return
    if (retryAtMs !== undefined) this.#timers.set(sandboxId, retryAtMs)
    const reason = error instanceof Error ? error.message : String(error)
    this.events.publish({ kind: 'pauseFailed', sandboxId, reason, retryAtMs })
  }

  #endLater(sandbox: SandboxRecord, reason: EndReason): void {
    this.#end(sandbox, reason).catch((error: unknown) => {
      this.#parts.log.error({ event: 'sandbox.end', sandboxId: sandbox.id, reason, err: error })
    })
  }

  #end(sandbox: SandboxRecord, reason: EndReason): Promise<void> {
    sandbox.ended ??= this.#takeDown(sandbox, reason)
    return sandbox.ended
  }

  async #takeDown(sandbox: SandboxRecord, reason: EndReason): Promise<void> {
    const startMs = performance.now()
    const before = sandbox.state
    const wasStarting = before === 'starting'
    this.#move(sandbox, 'killing')
    this.#timers.clear(sandbox.id)
    if (before !== 'running') {
      const what = wasStarting ? 'starting' : 'kept'
      sandbox.abort.abort(new HostError('failed', `sandbox '${sandbox.id}' was killed while it was ${what}`))
      await sandbox.settled
    }
    if (!wasStarting) {
      // One that does not stop is nobody's any more either: its release goes on with it.
      await sandbox.cell?.stop().catch((err: unknown) => {
        this.#parts.log.error({ event: 'sandbox.stop', sandboxId: sandbox.id, err })
      })
      this.#releaseLater(sandbox)
    }
    this.#forget(sandbox)
    const atMs = this.#clock.nowMs()
    if (!wasStarting) this.events.publish({ kind: 'ended', sandboxId: sandbox.id, reason, atMs })
    const livedMs = sandbox.cell ? atMs - sandbox.cell.startedAtMs : 0
    this.#parts.log.info({
      event: 'sandbox.end',
      sandboxId: sandbox.id,
      reason,
      tookMs: since(startMs),
      livedMs,
      ...(reason === 'exited' ? sandbox.exit : {}),
    })
  }

  /** Slot and upper go back to their owners after the answer: recycling them is nobody's wait. */
  #releaseLater(sandbox: SandboxRecord, options: { keepUpper?: boolean } = {}): void {
    const { cell } = sandbox
    if (!cell) return
    const { id: sandboxId } = sandbox
    const releasing = cell.release(options).catch((err: unknown) => {
      this.#parts.log.error({ event: 'sandbox.release', sandboxId, slot: cell.slot.index, err })
    })
    this.#releasing.add(releasing)
    releasing.finally(() => this.#releasing.delete(releasing))
  }

  #forget(sandbox: SandboxRecord): void {
    this.#move(sandbox, 'gone')
    this.#sandboxes.delete(sandbox.id)
    this.#endedIds.add(sandbox.id)
  }

  #move(sandbox: SandboxRecord, to: SandboxState): void {
    assertMove(sandbox.id, sandbox.state, to)
    sandbox.state = to
  }
}

async function releaseUnheardOf(cell: Cell): Promise<void> {
  try {
    cell.disown()
  } finally {
    await cell.release()
  }
}

const notHere = (sandboxId: string): HostError =>
  new HostError('notFound', `sandbox '${sandboxId}' is not on this host`)

const since = (startMs: number): number => Math.round((performance.now() - startMs) * 100) / 100
