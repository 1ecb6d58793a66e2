import { ApiError } from '@sandbox/contract/errors'
import { newSandboxId, newUuid } from '@sandbox/contract/ids'
import type { ForkResult } from '@sandbox/contract/rest/sandboxes'
import type { SandboxRow, Team } from '@sandbox/store/schema'
import type { Logger } from 'pino'
import type { SandboxTokens } from '../auth/tokens.ts'
import type { Answers } from './answers.ts'
import type { Captures } from './capturing.ts'
import type { Entries } from './entries.ts'
import type { Launcher } from './launching.ts'
import { checkTimeout } from './new-sandbox.ts'

export interface ForkParts {
  readonly entries: Entries
  readonly captures: Captures
  readonly launcher: Launcher
  readonly answers: Answers
  readonly tokens: SandboxTokens
  readonly logger: Logger
}

export interface ForkOptions {
  readonly count: number
  readonly timeoutSeconds: number
}

/** Makes running copies of a running sandbox. */
export class Forks {
  readonly #parts: ForkParts

  constructor(parts: ForkParts) {
    this.#parts = parts
  }

  /**
   * Captures a sandbox in place and starts it `count` times, each with its own outcome.
   * @throws ApiError 400 count or timeout, 404, 409 paused, 503; nothing was started then
   */
  async fork(team: Team, id: string, { count, timeoutSeconds }: ForkOptions): Promise<ForkResult[]> {
    const { entries, captures, logger } = this.#parts
    const { maxHours, maxSandboxes } = entries.limitsOf(team)
    checkTimeout(timeoutSeconds, maxHours)
    if (count >= maxSandboxes) {
      throw new ApiError(
        'badRequest',
        `Fork count ${count} must be below the number of concurrent sandboxes of your team (${maxSandboxes})`,
      )
    }
    const snapshotId = `fork-${newUuid()}`
    const { row, host } = await captures.capture(team, id, { snapshotId, memory: true, ofPaused: 'conflict' })
    const begun = performance.now()
    try {
      const starts = Array.from({ length: count }, () =>
        this.#start({ ...row, snapshotId }, timeoutSeconds * 1000, maxSandboxes),
      )
      return await Promise.all(starts)
    } finally {
      const forkMs = Math.round(performance.now() - begun)
      logger.info({ sandboxId: id, teamId: team.id, count, forkMs }, 'sandbox forked')
      await captures.discard(host, snapshotId)
    }
  }

  async #start(source: SandboxRow, timeoutMs: number, limit: number): Promise<ForkResult> {
    const { answers, launcher, logger } = this.#parts
    try {
      const facts = await launcher.launch(this.#copyOf(source, timeoutMs), {
        limit,
        how: 'forked',
        hostId: source.hostId,
      })
      return { sandbox: answers.started(facts) }
    } catch (error) {
      if (error instanceof ApiError) return { error: error.toBody() }
      logger.error({ err: error, sandboxId: source.id }, 'fork failed')
      return { error: new ApiError('internal', 'The fork failed: see the server log.').toBody() }
    }
  }

  #copyOf(source: SandboxRow, timeoutMs: number): SandboxRow {
    const { tokens } = this.#parts
    const id = newSandboxId()
    const startedAt = Date.now()
    const env = tokens.openEnv(source.id, source.sealedEnv)
    return {
      ...source,
      id,
      state: 'running',
      startedAt,
      endAt: startedAt + timeoutMs,
      timeoutMs,
      sealedEnv: tokens.sealEnv(id, env),
    }
  }
}
