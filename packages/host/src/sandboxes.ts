import type { Logger } from 'pino'
import type { Cell, Phases } from './cells.ts'
import type { InstanceExit } from './engines/engine.ts'
import { Events } from './events.ts'
import { HostError } from './host-error.ts'
import type { JournalEntry } from './journal.ts'
import type { NetworkPolicy } from './network/policy.ts'
import { assertMove, type EndReason, type SandboxState } from './sandbox-states.ts'
import type { Started, StartRequest } from './start.ts'
import { type Clock, EndTimers, systemClock } from './timers.ts'

/**
 * The running sandboxes of this machine, and the only writer of their states. Each sandbox goes through its
 * transitions one at a time; a kill is accepted in every state and joins one that is under way.
 */

export interface SandboxView {
  readonly sandboxId: string
  readonly state: SandboxState
  readonly address: string
  readonly startedAtMs: number
  readonly endAtMs: number
  readonly snapshotId: string
  readonly engine: string
}

export interface SandboxesParts {
  /** Makes a cell that answers, or throws and leaves nothing. */
  start: (request: StartRequest, phases: Phases, signal: AbortSignal) => Promise<Started>
  engineName: string
  log: Logger
  clock?: Clock
}

interface Sandbox {
  readonly id: string
  readonly snapshotId: string
  readonly onEnd: 'kill' | 'pause'
  readonly abort: AbortController
  state: SandboxState
  cell: Cell | undefined
  endAtMs: number
  /** Settles when the start has, whatever came of it. */
  settled: Promise<void>
  ended: Promise<void> | undefined
}

/** How many ended sandboxes are remembered, so that a repeated stop is not an error. */
const REMEMBERED_ENDS = 10_000

export class Sandboxes {
  readonly events = new Events()
  readonly #parts: SandboxesParts
  readonly #clock: Clock
  readonly #timers: EndTimers
  readonly #sandboxes = new Map<string, Sandbox>()
  readonly #endedIds = new Set<string>()
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
    const sandbox: Sandbox = {
      id: request.sandboxId,
      snapshotId: request.snapshotId,
      onEnd: request.onEnd,
      abort: new AbortController(),
      state: 'starting',
      cell: undefined,
      endAtMs: request.endAtMs,
      settled: settle.promise,
      ended: undefined,
    }
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
    const sandbox: Sandbox = {
      id: entry.sandboxId,
      snapshotId: entry.snapshotId,
      onEnd: entry.onEnd,
      abort: new AbortController(),
      state: 'starting',
      cell,
      endAtMs: entry.endAtMs ?? this.#clock.nowMs(),
      settled: Promise.resolve(),
      ended: undefined,
    }
    this.#sandboxes.set(sandbox.id, sandbox)
    this.#run(sandbox, cell)
  }

  /** Resolves when its processes are gone and its streams are reset. @throws HostError notFound */
  async kill(sandboxId: string, reason: EndReason = 'killed'): Promise<void> {
    const sandbox = this.#sandboxes.get(sandboxId)
    if (sandbox) return this.#end(sandbox, reason)
    if (!this.#endedIds.has(sandboxId)) throw notHere(sandboxId)
  }

  /** @returns the end that holds now. @throws HostError notFound, wrongState */
  setEnd(sandboxId: string, endAtMs: number, extendOnly: boolean): number {
    const { sandbox, cell } = this.#running(sandboxId)
    if (extendOnly && endAtMs <= sandbox.endAtMs) return sandbox.endAtMs
    sandbox.endAtMs = endAtMs
    cell.moveEnd(endAtMs)
    this.#timers.set(sandboxId, endAtMs)
    return endAtMs
  }

  /** Replaces what it may reach, for new connections at once. @throws HostError notFound, wrongState */
  async applyNetwork(sandboxId: string, policy: NetworkPolicy): Promise<void> {
    await this.#running(sandboxId).cell.applyNetwork(policy)
  }

  /** Everything past its start. */
  list(): SandboxView[] {
    return [...this.#sandboxes.values()].flatMap((sandbox) => (sandbox.cell ? [this.#view(sandbox)] : []))
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

  #running(sandboxId: string): { sandbox: Sandbox; cell: Cell } {
    const sandbox = this.#sandboxes.get(sandboxId)
    if (!sandbox) throw notHere(sandboxId)
    const { state, cell } = sandbox
    if (state !== 'running' || !cell) throw new HostError('wrongState', `sandbox '${sandboxId}' is ${state}`)
    return { sandbox, cell }
  }

  async #bringUp(sandbox: Sandbox, request: StartRequest): Promise<{ view: SandboxView; fromPool: boolean }> {
    const startMs = performance.now()
    const phases: Phases = {}
    const line = { event: 'sandbox.start', sandboxId: sandbox.id, snapshotId: sandbox.snapshotId, phases }
    try {
      const { cell, fromPool } = await this.#parts.start(request, phases, sandbox.abort.signal)
      sandbox.cell = cell
      // A kill may have come while the last answer was on its way.
      if (sandbox.state !== 'starting') {
        await cell.release()
        throw new HostError('failed', `sandbox '${sandbox.id}' was killed while it was starting`)
      }
      this.#run(sandbox, cell)
      this.#parts.log.info({ ...line, fromPool, slot: cell.slot.index, totalMs: since(startMs) })
      return { view: this.#view(sandbox), fromPool }
    } catch (error) {
      if (sandbox.state === 'starting') {
        this.#move(sandbox, 'killing')
        this.#forget(sandbox)
      }
      this.#parts.log.warn({ ...line, totalMs: since(startMs), err: error })
      throw error
    }
  }

  #run(sandbox: Sandbox, cell: Cell): void {
    this.#move(sandbox, 'running')
    this.#timers.set(sandbox.id, sandbox.endAtMs)
    cell.exited.then((exit) => this.#onExit(sandbox, exit))
    this.events.publish({ kind: 'started', sandbox: this.#view(sandbox) })
  }

  #onExit(sandbox: Sandbox, exit: InstanceExit): void {
    if (sandbox.ended) return
    this.#endLater(sandbox, exit.outOfMemory ? 'out_of_memory' : 'exited')
  }

  /** The one place that decides what the end of a sandbox's time means. */
  #reachedEnd(sandboxId: string): void {
    const sandbox = this.#sandboxes.get(sandboxId)
    if (sandbox) this.#endLater(sandbox, 'timeout')
  }

  #endLater(sandbox: Sandbox, reason: EndReason): void {
    this.#end(sandbox, reason).catch((error: unknown) => {
      this.#parts.log.error({ event: 'sandbox.end', sandboxId: sandbox.id, reason, err: error })
    })
  }

  #end(sandbox: Sandbox, reason: EndReason): Promise<void> {
    sandbox.ended ??= this.#takeDown(sandbox, reason)
    return sandbox.ended
  }

  async #takeDown(sandbox: Sandbox, reason: EndReason): Promise<void> {
    const startMs = performance.now()
    const wasStarting = sandbox.state === 'starting'
    this.#move(sandbox, 'killing')
    this.#timers.clear(sandbox.id)
    if (wasStarting) {
      sandbox.abort.abort(new HostError('failed', `sandbox '${sandbox.id}' was killed while it was starting`))
      await sandbox.settled
    } else {
      await sandbox.cell?.stop()
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
    })
  }

  /** Slot and upper go back to their owners after the answer: recycling them is nobody's wait. */
  #releaseLater(sandbox: Sandbox): void {
    const { cell } = sandbox
    if (!cell) return
    const releasing = cell.release().catch((error: unknown) => {
      this.#parts.log.error({
        event: 'sandbox.release',
        sandboxId: sandbox.id,
        slot: cell.slot.index,
        err: error,
      })
    })
    this.#releasing.add(releasing)
    releasing.finally(() => this.#releasing.delete(releasing))
  }

  #forget(sandbox: Sandbox): void {
    this.#move(sandbox, 'gone')
    this.#sandboxes.delete(sandbox.id)
    this.#endedIds.add(sandbox.id)
    for (const oldest of this.#endedIds) {
      if (this.#endedIds.size <= REMEMBERED_ENDS) break
      this.#endedIds.delete(oldest)
    }
  }

  #move(sandbox: Sandbox, to: SandboxState): void {
    assertMove(sandbox.id, sandbox.state, to)
    sandbox.state = to
  }

  #view(sandbox: Sandbox): SandboxView {
    return {
      sandboxId: sandbox.id,
      state: sandbox.state,
      address: sandbox.cell?.slot.address ?? '',
      startedAtMs: sandbox.cell?.startedAtMs ?? 0,
      endAtMs: sandbox.endAtMs,
      snapshotId: sandbox.snapshotId,
      engine: this.#parts.engineName,
    }
  }
}

const notHere = (sandboxId: string): HostError =>
  new HostError('notFound', `sandbox '${sandboxId}' is not on this host`)

const since = (startMs: number): number => Math.round((performance.now() - startMs) * 100) / 100
