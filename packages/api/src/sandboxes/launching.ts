import { ApiError } from '@sandbox/contract/errors'
import type { SandboxRow } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { SandboxTokens } from '../auth/tokens.ts'
import type { SandboxLogs } from '../observing/sandbox-logs.ts'
import type { AnswerFacts } from './answers.ts'
import { type Entries, factsOf, runningFromRow, startOrderOf } from './entries.ts'
import type { RunningSandbox, RunningSandboxes } from './running.ts'
import { type Placed, type Starter, stopOn } from './starting.ts'

export interface LaunchParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly entries: Entries
  readonly starter: Starter
  readonly tokens: SandboxTokens
  readonly logs: SandboxLogs
  readonly logger: Logger
}

export interface LaunchOptions {
  /** Sandboxes at once that the team may have. */
  readonly limit: number
  /** The idempotency key to complete. */
  readonly key?: string | undefined
  /** How the sandbox comes to be, for the logs. */
  readonly how: 'created' | 'forked'
  /** The only host that has the snapshot. */
  readonly hostId?: string | null
  /** The engine it is to run on; null takes what its snapshot was made for. */
  readonly isolation?: string | null
}

/** Starts new sandboxes: from the place among the team's sandboxes to the route. */
export class Launcher {
  readonly #parts: LaunchParts

  constructor(parts: LaunchParts) {
    this.#parts = parts
  }

  /**
   * Starts the sandbox of a row, which is written once a host has it.
   * @throws ApiError 429 team limit, 500, 503, 504; nothing runs then
   */
  async launch(wanted: SandboxRow, options: LaunchOptions): Promise<AnswerFacts> {
    const { limit, key, how, hostId: pinned = null, isolation = null } = options
    const { running, starter, tokens, logger, logs } = this.#parts
    const begun = performance.now()
    const sandbox = runningFromRow(wanted, 'starting')
    running.reserve(sandbox, limit)
    try {
      const placed = await starter.start({ ...startOrderOf(wanted, tokens), hostId: pinned, isolation })
      const facts = await this.#record({ ...wanted, hostId: placed.hostId }, sandbox, placed, key)
      const startMs = Math.round((performance.now() - begun) * 100) / 100
      const { hostId, fromPool } = placed
      const { id: sandboxId, teamId, templateId } = wanted
      logger.info({ sandboxId, teamId, templateId, hostId, fromPool, startMs }, `sandbox ${how}`)
      logs.append(sandboxId, teamId, 'info', `Sandbox ${how}`, { templateID: templateId })
      this.#countSpawn(wanted)
      return facts
    } catch (error) {
      running.remove(wanted.id, sandbox)
      throw error
    }
  }

  #countSpawn({ templateId, startedAt }: SandboxRow): void {
    const { store, logger } = this.#parts
    store.templates
      .countSpawn(templateId, startedAt)
      .catch((error) => logger.warn({ err: error }, 'spawn of a template not counted'))
  }

  /** Writes the row, then makes the sandbox reachable. A sandbox that cannot be recorded is stopped again. */
  async #record(
    row: SandboxRow,
    sandbox: RunningSandbox,
    placed: Placed,
    key: string | undefined,
  ): Promise<AnswerFacts> {
    const { running, store } = this.#parts
    sandbox.hostId = placed.hostId
    const facts = factsOf(row)
    try {
      await store.sandboxes.insert(
        row,
        key === undefined ? undefined : { key, answer: JSON.stringify(facts) },
      )
    } catch (error) {
      await this.#unrecord(sandbox)
      throw error
    }
    if (sandbox.ended) {
      await this.#unrecord(sandbox)
      throw new ApiError(
        'createFailed',
        'The sandbox ended right after its start: nothing of it is left, try again.',
      )
    }
    running.publish(sandbox, placed.hostId, placed.address)
    return facts
  }

  /** The sandbox goes, and so does its row, also one whose write failed only in its answer. */
  async #unrecord(sandbox: RunningSandbox): Promise<void> {
    const { store, logger, entries } = this.#parts
    const undone = await Promise.allSettled([
      stopOn(entries.hostOf(sandbox), sandbox.id),
      store.sandboxes.delete(sandbox.id),
    ])
    for (const result of undone) {
      if (result.status === 'rejected') {
        logger.error({ err: result.reason, sandboxId: sandbox.id }, 'unrecorded sandbox not removed yet')
      }
    }
  }
}
