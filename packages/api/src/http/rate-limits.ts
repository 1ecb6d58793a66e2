/** Bounds how often a team may call a route, by tokens that come back evenly. */
import { ApiError } from '@sandbox/contract/errors'
import type { FastifyReply, FastifyRequest, onRequestAsyncHookHandler } from 'fastify'

/** Of one team on one route. */
export interface RateLimit {
  /** Calls per period. */
  readonly rate: number
  /** Calls at once after silence. */
  readonly burst: number
  readonly periodSec: number
}

/** By route as the OpenAPI document writes it, e.g. `/sandboxes/{sandboxID}/pause`; `*` stands for every other one. */
export type RateLimits = Readonly<Record<string, RateLimit>>

/** What is asked of the clock and answered to the client. */
export interface Verdict {
  readonly isAllowed: boolean
  /** Calls that may follow at once. */
  readonly remaining: number
  /** Until a whole burst may follow. */
  readonly resetAfterMs: number
  /** Until the next call may come; 0 when this one might. */
  readonly retryAfterMs: number
}

const EVERY_OTHER = '*'
/** Teams and routes that are remembered; of more the one that was quiet longest is forgotten. */
const MAX_REMEMBERED = 10_000

/** Counts calls. A token bucket kept as one number: when it will be full again. */
export class RateCounter {
  readonly #fullAtMs = new Map<string, number>()

  take(key: string, { rate, burst, periodSec }: RateLimit, nowMs: number): Verdict {
    const tokenMs = (periodSec * 1_000) / rate
    const fullAtMs = Math.max(this.#fullAtMs.get(key) ?? 0, nowMs)
    const nextFullAtMs = fullAtMs + tokenMs
    const lackMs = nextFullAtMs - burst * tokenMs - nowMs
    if (lackMs > 0) {
      return { isAllowed: false, remaining: 0, resetAfterMs: fullAtMs - nowMs, retryAfterMs: lackMs }
    }
    this.#remember(key, nextFullAtMs)
    const resetAfterMs = nextFullAtMs - nowMs
    const remaining = Math.floor(burst - resetAfterMs / tokenMs)
    return { isAllowed: true, remaining, resetAfterMs, retryAfterMs: 0 }
  }

  #remember(key: string, fullAtMs: number): void {
    this.#fullAtMs.delete(key)
    this.#fullAtMs.set(key, fullAtMs)
    for (const quietest of this.#fullAtMs.keys()) {
      if (this.#fullAtMs.size <= MAX_REMEMBERED) break
      this.#fullAtMs.delete(quietest)
    }
  }
}

const toSeconds = (ms: number): number => Math.ceil(ms / 1_000)

/** Counts authenticated calls and refuses with 429 those over the limit of their route. */
export function limitRates(limits: RateLimits): onRequestAsyncHookHandler {
  const counter = new RateCounter()
  return async (request: FastifyRequest, reply: FastifyReply) => {
    const route = (request.routeOptions.url ?? '').replace(/:(\w+)/g, '{$1}')
    const limit = limits[route] ?? limits[EVERY_OTHER]
    const teamId = request.caller?.team.id
    if (!limit || teamId === undefined) return
    const verdict = counter.take(`${teamId} ${request.method} ${route}`, limit, performance.now())
    reply
      .header('RateLimit-Limit', String(limit.burst))
      .header('RateLimit-Remaining', String(verdict.remaining))
      .header('RateLimit-Reset', String(toSeconds(verdict.resetAfterMs)))
    if (verdict.isAllowed) return
    throw new ApiError('rateLimited', 'Rate limit exceeded', {
      retryAfterSeconds: Math.max(1, toSeconds(verdict.retryAfterMs)),
    })
  }
}

/**
 * Reads limits as E2B writes them: `{"<route>": {"rate": n, "burst": n, "period_s"?: n}}`; the period is a second
 * when it is left out.
 * @throws Error with a sentence for the operator
 */
export function parseRateLimits(json: string): RateLimits {
  if (json.trim() === '') return {}
  let parsed: unknown
  try {
    parsed = JSON.parse(json)
  } catch {
    throw new Error('rate limits must be a JSON object of routes')
  }
  if (!isRecord(parsed)) throw new Error('rate limits must be a JSON object of routes')
  return Object.fromEntries(Object.entries(parsed).map(([route, limit]) => [route, readLimit(route, limit)]))
}

function readLimit(route: string, limit: unknown): RateLimit {
  const { rate, burst, period_s: periodSec = 1 } = isRecord(limit) ? limit : {}
  if (!isCount(rate) || !isCount(burst) || !isCount(periodSec)) {
    throw new Error(`rate limit of '${route}' needs whole numbers above 0: rate, burst and perhaps period_s`)
  }
  return { rate, burst, periodSec }
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) > 0
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
