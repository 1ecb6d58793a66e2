import { hash } from 'node:crypto'
import { ApiError } from '@sandbox/contract/errors'
import { newUuid } from '@sandbox/contract/ids'
import type { IdempotencyKey } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { AnswerFacts } from './answers.ts'

const KEPT_MS = 24 * 3600 * 1000
const CLEANUP_MS = 3600 * 1000

/**
 * SHA-256 of a request body in hex, the same for the same content in another order of keys.
 * @throws ApiError 400 when it is nested so deeply that it cannot be walked through
 */
export function hashBody(body: unknown): string {
  const ordered = (_key: string, value: unknown): unknown =>
    value !== null && typeof value === 'object' && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
      : value
  try {
    return hash('sha256', JSON.stringify(body, ordered), 'hex')
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new ApiError('badRequest', 'Invalid request body: nested too deeply')
  }
}

interface KeyedRequest {
  readonly teamId: string
  readonly key: string
  readonly body: unknown
  /** The id that the sandbox gets if this is the first request. */
  readonly sandboxId: string
}

/** Makes a create with an Idempotency-Key happen once. */
export class Idempotency {
  readonly #store: Store
  readonly #owner = newUuid()
  readonly #startTimeoutMs: number
  readonly #logger: Logger
  readonly #timer: NodeJS.Timeout
  /** Ids of the sandboxes that keyed requests of this run are starting. */
  readonly #starting = new Set<string>()

  constructor(store: Store, startTimeoutMs: number, logger: Logger) {
    this.#store = store
    this.#startTimeoutMs = startTimeoutMs
    this.#logger = logger
    this.#timer = setInterval(() => {
      store.idempotencyKeys
        .deleteOlderThan(Date.now() - KEPT_MS)
        .catch((error) => logger.warn({ err: error }, 'old idempotency keys not removed'))
    }, CLEANUP_MS).unref()
  }

  /**
   * Runs `start` unless an earlier request had the key; then answers as that one did. `start` completes the key
   * in the step that records the sandbox.
   * @throws ApiError 422 another body, 409 the first still runs or its outcome is lost
   */
  async once(request: KeyedRequest, start: () => Promise<AnswerFacts>): Promise<AnswerFacts> {
    const { teamId, key, sandboxId } = request
    const requestHash = hashBody(request.body)
    const owner = this.#owner
    const taken = { teamId, key, requestHash, owner, sandboxId, createdAt: Date.now() }
    let holder = await this.#store.idempotencyKeys.take(taken)
    // It may have ended just after it was read.
    if (holder && this.#isLeftOver(holder)) holder = await this.#store.idempotencyKeys.take(taken)
    return holder ? this.#repeat(holder, requestHash) : this.#start(request, start)
  }

  close(): void {
    clearInterval(this.#timer)
  }

  async #start(
    { teamId, key, sandboxId }: KeyedRequest,
    start: () => Promise<AnswerFacts>,
  ): Promise<AnswerFacts> {
    this.#starting.add(sandboxId)
    try {
      return await start()
    } catch (error) {
      // A failed start leaves nothing behind, so the key is free for another try.
      await this.#store.idempotencyKeys
        .release(teamId, key, this.#owner)
        .catch((failure) => this.#logger.error({ err: failure, teamId, key }, 'idempotency key not released'))
      throw error
    } finally {
      this.#starting.delete(sandboxId)
    }
  }

  /** Held by a request of this run that neither runs nor has an answer: it failed, and so did giving the key back. */
  #isLeftOver({ answer, owner, sandboxId }: IdempotencyKey): boolean {
    return answer === null && owner === this.#owner && !this.#starting.has(sandboxId)
  }

  #repeat(holder: IdempotencyKey, requestHash: string): AnswerFacts {
    if (holder.requestHash !== requestHash) {
      throw new ApiError(
        'idempotencyMismatch',
        'This Idempotency-Key was used with another request body: take a new key.',
      )
    }
    if (holder.answer !== null) return JSON.parse(holder.answer) as AnswerFacts
    const isYoung = Date.now() - holder.createdAt < this.#startTimeoutMs
    const mayStillRun = holder.owner === this.#owner ? !this.#isLeftOver(holder) : isYoung
    if (mayStillRun) {
      throw new ApiError(
        'idempotencyInProgress',
        'The first request with this Idempotency-Key still runs: try again.',
      )
    }
    throw new ApiError(
      'idempotencyOutcomeUnknown',
      'The server was interrupted during the first request with this Idempotency-Key: list sandboxes, take a new key.',
    )
  }
}
