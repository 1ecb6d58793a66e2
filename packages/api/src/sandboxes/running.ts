import { ApiError } from '@sandbox/contract/errors'

/**
 * starting: a start, resume or fork is under way, no route yet. pausing: requests are told to wait. snapshotting:
 * captured in place, reachable. killing: its route is gone, it is not shown any more.
 */
export type Phase = 'starting' | 'running' | 'pausing' | 'snapshotting' | 'killing'

/** A sandbox that occupies a host, as the control plane sees it. */
export interface RunningSandbox {
  readonly id: string
  readonly teamId: string
  hostId: string
  /** Where the edge reaches it; empty until its host has said so. */
  address: string
  phase: Phase
  startedAt: number
  endAt: number
  readonly ingress: Ingress
  /** Set when the host reported the end before the start was recorded. */
  ended?: EarlyEnd
  /** The transition under way; never rejects. */
  transition?: Promise<void>
}

export interface EarlyEnd {
  readonly reason: string
  /** Set when it was paused. */
  readonly snapshotId?: string
  readonly hasMemory?: boolean
}

/** How traffic from outside reaches a sandbox. */
export interface Ingress {
  readonly isPrivate: boolean
  readonly maskRequestHost?: string
  readonly httpsPorts: readonly number[]
  /** Traffic resumes it when it is paused. */
  readonly wakes: boolean
}

export type RouteListener = (sandboxId: string, present: boolean) => void

/** Whether the edge may send requests to it. */
export const isReachable = ({ phase, address }: RunningSandbox): boolean =>
  (phase === 'running' || phase === 'snapshotting') && address !== ''

/**
 * What runs now: the directory of routes and the count per team. Every method is synchronous, so that a check
 * and what follows from it are one step.
 */
export class RunningSandboxes {
  readonly #byId = new Map<string, RunningSandbox>()
  readonly #countByTeam = new Map<string, number>()
  readonly #listeners = new Set<RouteListener>()
  readonly #startListeners = new Set<(teamId: string) => void>()

  get(id: string): RunningSandbox | undefined {
    return this.#byId.get(id)
  }

  /** How many sandboxes each team has now. */
  get counts(): ReadonlyMap<string, number> {
    return this.#countByTeam
  }

  /**
   * Counts a sandbox before it starts.
   * @throws ApiError 429 when the team has `limit` sandboxes already
   */
  reserve(sandbox: RunningSandbox, limit: number): void {
    if ((this.#countByTeam.get(sandbox.teamId) ?? 0) >= limit) {
      throw new ApiError(
        'tooManySandboxes',
        `you have reached the maximum number of concurrent E2B sandboxes (${limit}). Kill one or let one end, ` +
          'or ask the operator of this server to raise the limit of your team.',
      )
    }
    this.add(sandbox)
    for (const listener of this.#startListeners) listener(sandbox.teamId)
  }

  /**
   * Tells of each start of a team's sandbox.
   * @returns a function that ends the subscription
   */
  onReserved(listener: (teamId: string) => void): () => void {
    this.#startListeners.add(listener)
    return () => this.#startListeners.delete(listener)
  }

  /** Counts a sandbox that exists, whatever the limit. */
  add(sandbox: RunningSandbox): void {
    if (this.#byId.has(sandbox.id)) return
    this.#byId.set(sandbox.id, sandbox)
    this.#countByTeam.set(sandbox.teamId, (this.#countByTeam.get(sandbox.teamId) ?? 0) + 1)
    if (isReachable(sandbox)) this.#notify(sandbox.id, true)
  }

  /** Makes a sandbox reachable. */
  publish(sandbox: RunningSandbox, hostId: string, address: string): void {
    sandbox.phase = 'running'
    sandbox.hostId = hostId
    sandbox.address = address
    this.#notify(sandbox.id, true)
  }

  /** Takes the route away; the sandbox still counts until it is removed. */
  withdraw(sandbox: RunningSandbox): void {
    sandbox.phase = 'killing'
    this.#notify(sandbox.id, false)
  }

  /** Lets caches of routes ask again, so that requests are told of a transition; what runs is not broken off. */
  reconsider(sandbox: RunningSandbox): void {
    this.#notify(sandbox.id, true)
  }

  /** @param only remove it only while it is this very entry, not a later one of the same id */
  remove(id: string, only?: RunningSandbox): void {
    const sandbox = this.#byId.get(id)
    if (!sandbox || (only && only !== sandbox)) return
    this.#byId.delete(id)
    const left = (this.#countByTeam.get(sandbox.teamId) ?? 1) - 1
    if (left > 0) this.#countByTeam.set(sandbox.teamId, left)
    else this.#countByTeam.delete(sandbox.teamId)
    if (sandbox.phase !== 'killing' && sandbox.phase !== 'starting') this.#notify(id, false)
  }

  /** Runs a transition of a sandbox: others can wait for its end. */
  async during<T>(sandbox: RunningSandbox, work: () => Promise<T>): Promise<T> {
    const { promise, resolve } = Promise.withResolvers<void>()
    sandbox.transition = promise
    try {
      return await work()
    } finally {
      if (sandbox.transition === promise) delete sandbox.transition
      resolve()
    }
  }

  /** @returns a function that ends the subscription */
  subscribe(listener: RouteListener): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  #notify(id: string, present: boolean): void {
    for (const listener of this.#listeners) listener(id, present)
  }
}
