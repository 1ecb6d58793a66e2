import { createHash, timingSafeEqual } from 'node:crypto'
import { Code, ConnectError } from '@connectrpc/connect'
import { ENVD_PORT } from '@sandbox/contract/ports'
import type { Logger } from 'pino'
import {
  type Answer,
  apiUnreachable,
  internalPath,
  malformed,
  notFound,
  portClosed,
  refusedFor,
  send,
  TRAFFIC_TOKEN_HEADER,
  tokenRefused,
  tooManyConnections,
} from './answers.ts'
import type { Exchange } from './exchange.ts'
import type { Destination, Outcome } from './forward.ts'
import { isInternalPath } from './internal-paths.ts'
import type { Credentials, Place, Routes } from './routes.ts'
import { readTarget } from './target.ts'
import type { Upstream } from './upstream.ts'

const MAX_ATTEMPTS = 3

/** Carries an exchange to a destination: a plain request or a tunnel. */
export type Carrier = (exchange: Exchange, to: Destination) => Promise<Outcome>

/** Where the API is. */
export interface ApiPlace {
  /** Lower-case public name, without port. */
  readonly publicHost: string
  readonly upstream: Upstream
  readonly port: number
  readonly tls: boolean
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest()

/** HTTP status for a refusal of the directory; anything else means that the directory is not there. */
const STATUS_OF_CODE = new Map<Code, number>([
  [Code.PermissionDenied, 403],
  [Code.Unauthenticated, 403],
  [Code.FailedPrecondition, 409],
  [Code.Aborted, 409],
  [Code.ResourceExhausted, 429],
])

function directoryRefusal(sandboxId: string, error: unknown): Answer {
  const refusal = ConnectError.from(error)
  const status = STATUS_OF_CODE.get(refusal.code)
  if (status !== undefined) return refusedFor(sandboxId, status, refusal.rawMessage)
  return refusedFor(sandboxId, 503, 'The sandbox cannot be located at the moment, try again')
}

/** Longer than every token; what is longer cannot be one and is not passed on. */
const MAX_TOKEN_LENGTH = 512

function credentialsOf(exchange: Exchange): Credentials {
  const traffic = exchange.header(TRAFFIC_TOKEN_HEADER)
  const envd = exchange.header('x-access-token')
  return {
    ...(traffic && traffic.length <= MAX_TOKEN_LENGTH ? { trafficAccessToken: traffic } : {}),
    ...(envd && envd.length <= MAX_TOKEN_LENGTH ? { envdAccessToken: envd } : {}),
  }
}

function checkTrafficToken(exchange: Exchange, { route }: Place, port: number): Answer | undefined {
  const expected = route.trafficAccessToken
  if (expected === undefined || port === ENVD_PORT) return undefined
  const given = exchange.header(TRAFFIC_TOKEN_HEADER)
  if (!given) return tokenRefused(route.sandboxId, false)
  return timingSafeEqual(digest(given), digest(expected)) ? undefined : tokenRefused(route.sandboxId, true)
}

function destinationOf(exchange: Exchange, { route, upstream }: Place, port: number): Destination {
  const mask = port === ENVD_PORT ? undefined : route.maskRequestHost
  const host = mask === undefined ? exchange.authority : mask.replaceAll('$' + '{PORT}', String(port))
  return { upstream, port, tls: port !== ENVD_PORT && route.httpsPorts.includes(port), host }
}

/** Decides where an exchange goes and what it is told when it cannot go there. */
export class Handler {
  readonly #api: ApiPlace
  readonly #routes: Routes
  readonly #log: Logger
  readonly #maxPerSandbox: number

  /** @param maxPerSandbox requests and tunnels under way at once */
  constructor(api: ApiPlace, routes: Routes, log: Logger, maxPerSandbox = Number.POSITIVE_INFINITY) {
    this.#maxPerSandbox = maxPerSandbox
    this.#api = api
    this.#routes = routes
    this.#log = log
  }

  /** Handles one exchange to its end. Never throws. */
  async handle(exchange: Exchange, carry: Carrier): Promise<void> {
    const startedMs = performance.now()
    let sandboxId: string | undefined
    let port: number | undefined
    try {
      const target = readTarget(exchange.authority, this.#api.publicHost, (name) => exchange.header(name))
      if (target.kind === 'refused') return this.#refuse(exchange, malformed(target.message))
      if (target.kind === 'api') return await this.#toApi(exchange, carry)
      ;({ sandboxId, port } = target)
      if (port === ENVD_PORT && isInternalPath(exchange.path)) {
        return this.#refuse(exchange, internalPath(exchange.path))
      }
      await this.#toSandbox(exchange, sandboxId, port, carry)
    } catch (error) {
      this.#log.error({ err: error, sandboxId, port }, 'exchange failed')
      exchange.reset()
    } finally {
      if (this.#log.isLevelEnabled('debug')) {
        const durationMs = Math.round(performance.now() - startedMs)
        const { method, status } = exchange
        this.#log.debug({ sandboxId, port, method, status, durationMs }, 'request')
      }
    }
  }

  #refuse(exchange: Exchange, answer: Answer): void {
    if (!exchange.closed && !exchange.answered) send(exchange, answer)
  }

  async #toApi(exchange: Exchange, carry: Carrier): Promise<void> {
    const { upstream, port, tls } = this.#api
    for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
      const outcome = await carry(exchange, { upstream, port, tls, host: exchange.authority })
      if (outcome.kind === 'malformed') return this.#refuse(exchange, malformed('Invalid request'))
      if (outcome.kind !== 'failed') return
      if (!outcome.stale) {
        // A request that the API may have seen is broken off: nobody can say whether it was done.
        if (outcome.untouched && outcome.unsent) return this.#refuse(exchange, apiUnreachable)
        return exchange.reset()
      }
    }
    this.#refuse(exchange, apiUnreachable)
  }

  async #toSandbox(exchange: Exchange, sandboxId: string, port: number, carry: Carrier): Promise<void> {
    let tried: Place | undefined
    for (let attempt = 1; ; attempt++) {
      const place = await this.#locate(exchange, sandboxId, port)
      if (!place || exchange.closed) return
      // The directory still names the place that did not answer: it runs, and nothing listens there.
      const moved = tried !== undefined && tried.upstream !== place.upstream
      if (tried && (!moved || attempt > MAX_ATTEMPTS))
        return this.#refuse(exchange, portClosed(sandboxId, port))
      const denied = checkTrafficToken(exchange, place, port)
      if (denied) return this.#refuse(exchange, denied)
      if (place.upstream.liveCount >= this.#maxPerSandbox)
        return this.#refuse(exchange, tooManyConnections(sandboxId, this.#maxPerSandbox))
      const outcome = await carry(exchange, destinationOf(exchange, place, port))
      if (outcome.kind === 'malformed') return this.#refuse(exchange, malformed('Invalid request'))
      if (outcome.kind !== 'failed') return
      if (outcome.stale && attempt < MAX_ATTEMPTS) continue
      this.#log.debug({ err: outcome.error, sandboxId, port }, 'no answer from the sandbox')
      this.#routes.forget(sandboxId)
      if (!outcome.untouched) return this.#explain(exchange, sandboxId, port)
      tried = place
    }
  }

  /** The place of the sandbox, or undefined after the client was told that there is none. */
  async #locate(exchange: Exchange, sandboxId: string, port: number): Promise<Place | undefined> {
    try {
      const place = await this.#routes.find(sandboxId, port, credentialsOf(exchange))
      if (!place) this.#refuse(exchange, notFound(sandboxId))
      return place
    } catch (error) {
      this.#refuse(exchange, directoryRefusal(sandboxId, error))
      return undefined
    }
  }

  /** The service took the request and gave no answer: says whether its sandbox is still there. */
  async #explain(exchange: Exchange, sandboxId: string, port: number): Promise<void> {
    const place = await this.#locate(exchange, sandboxId, port)
    if (place) this.#refuse(exchange, portClosed(sandboxId, port))
  }
}
