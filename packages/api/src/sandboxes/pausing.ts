import { timestampMs } from '@bufbuild/protobuf/wkt'
import { Code, ConnectError } from '@connectrpc/connect'
import { ApiError } from '@sandbox/contract/errors'
import type { PausedSandbox } from '@sandbox/contract/gen/host/host_pb'
import type { SandboxRow, Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { SandboxLogs } from '../observing/sandbox-logs.ts'
import { type Entries, sandboxNotFound, sandboxTransitioning } from './entries.ts'
import type { RunningSandbox, RunningSandboxes } from './running.ts'

export interface PauseParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly entries: Entries
  readonly logs: SandboxLogs
  readonly logger: Logger
}

export interface PauseOptions {
  /** False keeps the files only. */
  readonly memory: boolean
  readonly requireHealthyGuest: boolean
}

/** Writing the memory of a large sandbox to a slow disk takes minutes. */
const PAUSE_TIMEOUT_MS = 600_000
const LIST_TIMEOUT_MS = 10_000

/** What a host's refusal to capture a sandbox means to the caller. */
export function captureError(id: string, cause: unknown): ApiError {
  const error = ConnectError.from(cause)
  switch (error.code) {
    case Code.NotFound:
      return sandboxNotFound(id)
    case Code.Aborted:
      return sandboxTransitioning(id)
    case Code.Unavailable:
    case Code.ResourceExhausted:
      return new ApiError('busy', `Sandbox ${id} cannot be captured now and goes on: ${error.rawMessage}`, {
        cause,
      })
    default:
      return new ApiError('internal', `Sandbox ${id} was not captured: see the server log.`, { cause })
  }
}

/** Pauses sandboxes, and records the pauses that hosts report. */
export class Pauses {
  readonly #parts: PauseParts

  constructor(parts: PauseParts) {
    this.#parts = parts
  }

  /**
   * Pauses a running sandbox.
   * @throws ApiError 404, 409 already paused or in transition, 503 not possible now; it goes on then
   */
  async pause(team: Team, id: string, options: PauseOptions): Promise<void> {
    const { store, running, entries } = this.#parts
    const row = await store.sandboxes.find(team.id, id)
    if (!row) throw sandboxNotFound(id)
    if (row.state === 'paused') throw new ApiError('conflict', `Sandbox ${id} is already paused`)
    const sandbox = running.get(id) ?? (await entries.adopt(row))
    if (sandbox.phase === 'killing') throw sandboxNotFound(id)
    if (sandbox.phase === 'snapshotting') {
      throw new ApiError('busy', `Sandbox ${id} is being snapshotted: it was not paused, try again.`)
    }
    if (sandbox.phase !== 'running') throw sandboxTransitioning(id)
    sandbox.phase = 'pausing'
    await running.during(sandbox, () => this.#pause(row, sandbox, options))
  }

  async #pause(row: SandboxRow, sandbox: RunningSandbox, options: PauseOptions): Promise<void> {
    const { store, running, entries } = this.#parts
    const host = entries.hostOf(sandbox)
    running.reconsider(sandbox)
    let paused: PausedSandbox | undefined
    try {
      await store.sandboxes.update(row.id, { state: 'pausing' })
      const answer = await host.client.pause(
        { sandboxId: row.id, memory: options.memory, requireHealthyGuest: options.requireHealthyGuest },
        { timeoutMs: PAUSE_TIMEOUT_MS },
      )
      paused = answer.paused
    } catch (error) {
      // A kill that came in between takes care of everything.
      if (sandbox.phase !== 'pausing') throw sandboxNotFound(row.id)
      paused = await this.#pausedNevertheless(row.id, sandbox)
      if (!paused) {
        await this.#goOn(sandbox)
        throw captureError(row.id, error)
      }
    }
    if (sandbox.phase !== 'pausing') throw sandboxNotFound(row.id)
    if (!paused) throw new ApiError('internal', `The host did not say where sandbox ${row.id} was paused to.`)
    await this.record(sandbox.hostId, paused, sandbox)
  }

  /** After an answer that was lost: the host's list says whether the pause happened. */
  async #pausedNevertheless(id: string, sandbox: RunningSandbox): Promise<PausedSandbox | undefined> {
    try {
      const { paused } = await this.#parts.entries
        .hostOf(sandbox)
        .client.list({}, { timeoutMs: LIST_TIMEOUT_MS })
      return paused.find((candidate) => candidate.sandboxId === id)
    } catch {
      return undefined
    }
  }

  async #goOn(sandbox: RunningSandbox): Promise<void> {
    const { store, running } = this.#parts
    if (running.get(sandbox.id) !== sandbox) return
    running.publish(sandbox, sandbox.hostId, sandbox.address)
    await store.sandboxes.update(sandbox.id, { state: 'running' })
  }

  /**
   * Records that a host keeps a sandbox as a snapshot now, for good when it resolves. Idempotent; old news of a
   * sandbox that runs again is ignored, unless that resume is known to be `undone`.
   */
  async record(
    hostId: string,
    paused: PausedSandbox,
    sandbox: RunningSandbox | undefined,
    options: { readonly undone?: boolean } = {},
  ): Promise<void> {
    const { store, running, logger, logs } = this.#parts
    const { sandboxId, snapshotId } = paused
    const pauseMode = paused.hasMemory ? 'full' : 'filesystem'
    const pause = {
      snapshotId,
      pauseMode,
      agentUnresponsive: paused.agentUnresponsive ? 1 : 0,
      endAt: paused.pausedAt ? timestampMs(paused.pausedAt) : Date.now(),
    } as const
    let isNew: boolean
    try {
      isNew = await store.sandboxes.markPaused(sandboxId, hostId, pause, options)
      if (isNew) await store.sync()
    } catch (error) {
      // It does not run, whether or not that can be written; the next comparison with its host writes it.
      if (sandbox && sandbox.phase !== 'killing') running.remove(sandboxId, sandbox)
      throw error
    }
    if (sandbox && sandbox.phase !== 'killing') {
      const row = isNew ? undefined : await store.sandboxes.findById(sandboxId)
      if (isNew || row?.state === 'paused') running.remove(sandboxId, sandbox)
    }
    if (!isNew) return
    logger.info(
      { sandboxId, hostId, pauseMode, agentUnresponsive: paused.agentUnresponsive },
      'sandbox paused',
    )
    if (sandbox) logs.append(sandboxId, sandbox.teamId, 'info', 'Sandbox paused', { pauseMode })
  }
}
