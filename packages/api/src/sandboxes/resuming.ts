import { ApiError } from '@sandbox/contract/errors'
import type { SandboxRow } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { SandboxTokens } from '../auth/tokens.ts'
import type { SandboxLogs } from '../observing/sandbox-logs.ts'
import { settingsOf } from './answers.ts'
import {
  type Entries,
  runningFromRow,
  sandboxNotFound,
  sandboxTransitioning,
  startOrderOf,
} from './entries.ts'
import type { RunningSandbox, RunningSandboxes } from './running.ts'
import type { Placed, Starter } from './starting.ts'

export interface ResumeParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly entries: Entries
  readonly starter: Starter
  readonly tokens: SandboxTokens
  readonly logs: SandboxLogs
  readonly logger: Logger
}

export interface ResumeOptions {
  readonly timeoutMs: number
  /** Sandboxes at once that the team may have. */
  readonly limit: number
  /** False boots the files of the snapshot, also when it has memory. */
  readonly memory: boolean
  /** Replaces what the sandbox was created with. */
  readonly autoPause?: boolean | undefined
}

const WRITE_AGAIN_MS = 1_000

/** Brings paused sandboxes back. */
export class Resumes {
  readonly #parts: ResumeParts

  constructor(parts: ResumeParts) {
    this.#parts = parts
  }

  /**
   * Starts a paused sandbox from its snapshot; it keeps everything but its times. The caller has made sure, in
   * the same step, that nothing else happens to the sandbox.
   * @throws ApiError 409 its agent did not answer at the pause, 429 team limit, 503, 504; it stays paused then
   */
  async resume(paused: SandboxRow, options: ResumeOptions): Promise<SandboxRow> {
    const { running } = this.#parts
    if (paused.agentUnresponsive && options.memory) {
      throw new ApiError(
        'guestUnresponsive',
        `The agent of sandbox ${paused.id} did not answer when it was paused: resume it with memory: false, which boots its files.`,
      )
    }
    const startedAt = Date.now()
    const settings = settingsOf(paused)
    const row: SandboxRow = {
      ...paused,
      state: 'running',
      pauseMode: null,
      agentUnresponsive: 0,
      startedAt,
      endAt: startedAt + options.timeoutMs,
      config:
        options.autoPause === undefined
          ? paused.config
          : JSON.stringify({ ...settings, autoPause: options.autoPause }),
    }
    const sandbox = runningFromRow(row, 'starting')
    running.reserve(sandbox, options.limit)
    return running.during(sandbox, () => this.#start(row, sandbox, options.memory))
  }

  async #start(row: SandboxRow, sandbox: RunningSandbox, memory: boolean): Promise<SandboxRow> {
    const { running, starter, tokens, entries, logger } = this.#parts
    const begun = performance.now()
    let placed: Placed
    try {
      await this.#checkStillPaused(row)
      placed = await starter.resume(entries.hostOf(row), startOrderOf(row, tokens), memory)
    } catch (error) {
      // A kill that came in between takes care of everything.
      if (sandbox.phase !== 'starting') throw sandboxNotFound(row.id)
      running.remove(row.id, sandbox)
      throw error
    }
    if (sandbox.phase !== 'starting') throw sandboxNotFound(row.id)
    await this.recordRunning(row, sandbox, placed.address)
    const resumeMs = Math.round((performance.now() - begun) * 100) / 100
    logger.info({ sandboxId: row.id, hostId: row.hostId, memory, resumeMs }, 'sandbox resumed')
    return row
  }

  /** It may have been killed, or resumed and paused again, between the reading of its row and its entry. */
  async #checkStillPaused({ id, snapshotId }: SandboxRow): Promise<void> {
    const current = await this.#parts.store.sandboxes.findById(id)
    if (!current) throw sandboxNotFound(id)
    if (current.state !== 'paused' || current.snapshotId !== snapshotId) throw sandboxTransitioning(id)
  }

  /** Writes that a sandbox runs again and makes it reachable. */
  async recordRunning(row: SandboxRow, sandbox: RunningSandbox, address: string): Promise<void> {
    // It runs whether or not the row can be written: its snapshot is used up, so it is never undone.
    this.#parts.running.publish(sandbox, row.hostId ?? '', address)
    try {
      await this.#write(row, sandbox)
    } catch (error) {
      this.#writeLater(row, sandbox)
      throw error
    }
  }

  async #write(row: SandboxRow, sandbox: RunningSandbox): Promise<void> {
    const { store, logs } = this.#parts
    const { state, pauseMode, agentUnresponsive, startedAt, endAt, config } = row
    const change = { state, pauseMode, agentUnresponsive, startedAt, endAt, config }
    await store.sandboxes.update(row.id, change)
    logs.append(row.id, row.teamId, 'info', 'Sandbox resumed')
    if (sandbox.ended) await this.#endedMeanwhile(row, sandbox)
  }

  /** Its row says that it is paused, which would be believed at its end. */
  #writeLater(row: SandboxRow, sandbox: RunningSandbox): void {
    const { running, logger } = this.#parts
    const again = async (): Promise<void> => {
      if (running.get(row.id) !== sandbox || sandbox.phase === 'killing') return
      try {
        await this.#write({ ...row, endAt: sandbox.endAt }, sandbox)
      } catch (error) {
        logger.warn({ err: error, sandboxId: row.id }, 'resumed sandbox not written, trying again')
        this.#writeLater(row, sandbox)
      }
    }
    setTimeout(() => void again(), WRITE_AGAIN_MS).unref()
  }

  /** Its host ended it before its start was recorded, and the report passed by unheard. */
  async #endedMeanwhile(row: SandboxRow, sandbox: RunningSandbox): Promise<void> {
    const { running, store } = this.#parts
    const { ended } = sandbox
    delete sandbox.ended
    if (!ended || ended.snapshotId === row.snapshotId) return
    running.remove(row.id, sandbox)
    if (ended.snapshotId === undefined) await store.sandboxes.delete(row.id)
    else {
      await store.sandboxes.update(row.id, {
        state: 'paused',
        snapshotId: ended.snapshotId,
        pauseMode: ended.hasMemory === false ? 'filesystem' : 'full',
        endAt: Date.now(),
      })
    }
    throw new ApiError('busy', `Sandbox ${row.id} ended right after its start.`)
  }
}
