import { type Client, Code, ConnectError } from '@connectrpc/connect'
import type { Directory, Route } from '@sandbox/contract/gen/directory/directory_pb'
import type { Logger } from 'pino'
import { Upstream } from './upstream.ts'

const MAX_ROUTES = 65_536
const MAX_FIND_ROUNDS = 3
const MAX_REWATCH_DELAY_MS = 1000

/** A running sandbox as the edge knows it. */
export interface Place {
  readonly route: Route
  readonly upstream: Upstream
}

/** What a request brings that may resume a paused sandbox: the values of its headers as sent. */
export interface Credentials {
  readonly trafficAccessToken?: string
  readonly envdAccessToken?: string
}

/** A question under way; `stale` once a change of that sandbox overtook it. */
interface Question {
  readonly answer: Promise<Route | undefined>
  stale: boolean
}

/**
 * Where sandboxes are: answers of the directory, kept only while its stream of changes is live. A change drops
 * the route; `present: false` also breaks off all that runs to the sandbox.
 */
export class Routes {
  readonly #directory: Client<typeof Directory>
  readonly #log: Logger
  readonly #known = new Map<string, Route>()
  /** By sandbox, then by what the answer may depend on: port and credentials. */
  readonly #questions = new Map<string, Map<string, Question>>()
  readonly #upstreams = new Map<string, Upstream>()
  readonly #stopped = new AbortController()
  #live = false

  constructor(directory: Client<typeof Directory>, log: Logger) {
    this.#directory = directory
    this.#log = log
  }

  /** Follows the changes until `close`; runs in the background. */
  async watch(): Promise<void> {
    for (
      let delayMs = 20;
      !this.#stopped.signal.aborted;
      delayMs = Math.min(delayMs * 2, MAX_REWATCH_DELAY_MS)
    ) {
      try {
        for await (const change of this.#directory.watch({}, { signal: this.#stopped.signal })) {
          delayMs = 20
          this.#apply(change.sandboxId, change.present)
        }
      } catch (error) {
        if (this.#stopped.signal.aborted) return
        this.#log.warn({ err: error }, 'directory watch lost')
      }
      this.#live = false
      this.#known.clear()
      for (const sandboxId of [...this.#questions.keys()]) this.#overtake(sandboxId)
      await new Promise((resume) => setTimeout(resume, delayMs))
    }
  }

  #apply(sandboxId: string, present: boolean): void {
    if (sandboxId === '') {
      this.#known.clear()
      this.#live = true
      for (const [id, upstream] of this.#upstreams) void this.#recheck(id, upstream)
      return
    }
    this.#known.delete(sandboxId)
    this.#overtake(sandboxId)
    if (!present) this.#breakOff(sandboxId)
  }

  #overtake(sandboxId: string): void {
    for (const question of this.#questions.get(sandboxId)?.values() ?? []) question.stale = true
    this.#questions.delete(sandboxId)
  }

  /** Ends what still runs to a sandbox whose end went unheard. Only looks: nothing is resumed for it. */
  async #recheck(sandboxId: string, upstream: Upstream): Promise<void> {
    try {
      const route = await this.#directory.find({ sandboxId, peek: true }, { signal: this.#stopped.signal })
      if (route.address !== upstream.address && this.#upstreams.get(sandboxId) === upstream) {
        this.#breakOff(sandboxId)
      }
    } catch (error) {
      const gone = error instanceof ConnectError && error.code === Code.NotFound
      if (gone && this.#upstreams.get(sandboxId) === upstream) this.#breakOff(sandboxId)
    }
  }

  #breakOff(sandboxId: string): void {
    const upstream = this.#upstreams.get(sandboxId)
    if (!upstream) return
    this.#upstreams.delete(sandboxId)
    this.#log.info({ sandboxId, broken: upstream.liveCount }, 'sandbox gone')
    upstream.reset()
  }

  /**
   * The place of a sandbox, or undefined when none of that id runs. May take as long as the directory likes: a
   * `Find` may resume a paused sandbox, if the credentials allow it, and answers when it runs again.
   *
   * @throws ConnectError for anything but not_found: permission_denied (resume refused), aborted or
   * failed_precondition (in transition), resource_exhausted (limit), unavailable (no directory).
   */
  async find(sandboxId: string, port: number, credentials: Credentials = {}): Promise<Place | undefined> {
    const route = this.#known.get(sandboxId) ?? (await this.#ask(sandboxId, port, credentials))
    return route ? { route, upstream: this.#upstreamOf(route) } : undefined
  }

  /** Drops what is known, so that the next `find` asks anew. */
  forget(sandboxId: string): void {
    this.#known.delete(sandboxId)
  }

  async #ask(sandboxId: string, port: number, credentials: Credentials): Promise<Route | undefined> {
    const key = JSON.stringify([port, credentials.trafficAccessToken, credentials.envdAccessToken])
    for (let round = 1; ; round++) {
      const question =
        this.#questions.get(sandboxId)?.get(key) ?? this.#question(key, { sandboxId, port, ...credentials })
      const route = await question.answer
      // An answer that a change overtook may name a place that belongs to another sandbox by now.
      if (question.stale && round < MAX_FIND_ROUNDS) continue
      return question.stale ? undefined : route
    }
  }

  #question(key: string, request: Credentials & { sandboxId: string; port: number }): Question {
    const { sandboxId } = request
    const question: Question = { answer: this.#fetch(request), stale: false }
    const ofSandbox = this.#questions.get(sandboxId) ?? new Map<string, Question>()
    this.#questions.set(sandboxId, ofSandbox.set(key, question))
    const settle = (): void => {
      if (ofSandbox.get(key) === question) ofSandbox.delete(key)
      if (ofSandbox.size === 0 && this.#questions.get(sandboxId) === ofSandbox)
        this.#questions.delete(sandboxId)
    }
    question.answer.then((route) => {
      settle()
      if (!question.stale) this.#learn(sandboxId, route)
    }, settle)
    return question
  }

  #learn(sandboxId: string, route: Route | undefined): void {
    if (!route) this.#breakOff(sandboxId)
    else if (this.#live) this.#remember(route)
  }

  async #fetch(request: Credentials & { sandboxId: string; port: number }): Promise<Route | undefined> {
    try {
      return await this.#directory.find(request, { signal: this.#stopped.signal })
    } catch (error) {
      if (error instanceof ConnectError && error.code === Code.NotFound) return undefined
      throw error
    }
  }

  #remember(route: Route): void {
    if (this.#known.size >= MAX_ROUTES) this.#known.delete(this.#known.keys().next().value ?? '')
    this.#known.set(route.sandboxId, route)
  }

  #upstreamOf(route: Route): Upstream {
    const known = this.#upstreams.get(route.sandboxId)
    if (known && known.address === route.address && !known.gone) return known
    // A sandbox that moved: nothing of its old place may be used again.
    known?.reset()
    const upstream = Upstream.sandbox(route.address)
    this.#upstreams.set(route.sandboxId, upstream)
    return upstream
  }

  /** Ends the watch and breaks off everything. */
  close(): void {
    this.#stopped.abort()
    for (const upstream of this.#upstreams.values()) upstream.reset()
    this.#upstreams.clear()
  }
}
