import { hash, timingSafeEqual } from 'node:crypto'
import { Code, ConnectError } from '@connectrpc/connect'
import { ApiError } from '@sandbox/contract/errors'
import type { FindRequest } from '@sandbox/contract/gen/directory/directory_pb'
import { ENVD_PORT } from '@sandbox/contract/ports'
import type { SandboxRow } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { SandboxTokens } from '../auth/tokens.ts'
import { settingsOf } from './answers.ts'
import type { Entries } from './entries.ts'
import { ingressOf } from './new-sandbox.ts'
import type { Resumes } from './resuming.ts'
import { isReachable, type RunningSandbox, type RunningSandboxes } from './running.ts'

export interface AutoResumeParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly entries: Entries
  readonly resumes: Resumes
  readonly tokens: SandboxTokens
}

/** An automatic resume lasts at least this long, however short the sandbox was created for. */
const MIN_TIMEOUT_MS = 300_000

const CODES = new Map<number, Code>([
  [404, Code.NotFound],
  [409, Code.Aborted],
  [429, Code.ResourceExhausted],
])

const isSame = (given: string, expected: string): boolean =>
  timingSafeEqual(hash('sha256', given, 'buffer'), hash('sha256', expected, 'buffer'))

const notFound = (id: string): ConnectError => new ConnectError(`sandbox ${id} was not found`, Code.NotFound)
const denied = (): ConnectError =>
  new ConnectError(
    "This sandbox can't be resumed with the credentials provided. Check your access token and try again.",
    Code.PermissionDenied,
  )
const transitioning = (): ConnectError =>
  new ConnectError('The sandbox is changing its state, try again', Code.Aborted)

/** Wakes paused sandboxes for the traffic that reaches them. */
export class AutoResume {
  readonly #parts: AutoResumeParts

  constructor(parts: AutoResumeParts) {
    this.#parts = parts
  }

  /**
   * The sandbox that a request goes to, resumed first where it may be.
   * @throws ConnectError as Directory.Find
   */
  async find(request: FindRequest): Promise<RunningSandbox> {
    const { sandboxId, peek } = request
    const { running } = this.#parts
    const known = running.get(sandboxId)
    if (known && isReachable(known)) return known
    if (known?.phase === 'pausing') throw known.ingress.wakes ? transitioning() : notFound(sandboxId)
    if (peek || (known && known.phase !== 'starting')) throw notFound(sandboxId)
    await known?.transition
    const awake = running.get(sandboxId)
    if (awake && isReachable(awake)) return awake
    if (awake) throw notFound(sandboxId)
    await this.#wake(request)
    const resumed = running.get(sandboxId)
    if (!resumed || !isReachable(resumed)) throw notFound(sandboxId)
    return resumed
  }

  async #wake(request: FindRequest): Promise<void> {
    const { store, running, entries, resumes } = this.#parts
    const id = request.sandboxId
    const row = await store.sandboxes.findById(id)
    if (row?.state !== 'paused' || !settingsOf(row).autoResume) throw notFound(id)
    if (row.pauseMode !== 'full' || row.agentUnresponsive) throw notFound(id)
    this.#checkCredentials(row, request)
    const team = await store.teams.find(row.teamId)
    if (!team || team.isBanned || team.isBlocked) throw denied()
    // Others may have begun to wake it while this one read: their work is waited for.
    const other = running.get(id)
    if (other) {
      await other.transition
      return
    }
    const { maxHours, maxSandboxes } = entries.limitsOf(team)
    const timeoutMs = Math.min(Math.max(row.timeoutMs, MIN_TIMEOUT_MS), maxHours * 3600_000)
    try {
      await resumes.resume(row, { timeoutMs, limit: maxSandboxes, memory: true })
    } catch (cause) {
      throw new ConnectError(
        cause instanceof ApiError ? cause.message : 'The sandbox could not be resumed',
        (cause instanceof ApiError ? CODES.get(cause.status) : undefined) ?? Code.Unavailable,
        undefined,
        undefined,
        cause,
      )
    }
  }

  /** The agent's port needs the agent's token, the others the traffic token where traffic is private. */
  #checkCredentials(row: SandboxRow, { port, envdAccessToken, trafficAccessToken }: FindRequest): void {
    const { tokens } = this.#parts
    if (port === ENVD_PORT) {
      if (!envdAccessToken || !isSame(envdAccessToken, tokens.envdToken(row.id))) throw denied()
      return
    }
    if (!ingressOf(settingsOf(row)).isPrivate) return
    if (!trafficAccessToken || !isSame(trafficAccessToken, tokens.trafficToken(row.id))) throw denied()
  }
}
