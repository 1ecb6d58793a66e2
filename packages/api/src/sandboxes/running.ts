import { ApiError } from '@sandbox/contract/errors'

/** A sandbox that occupies a host, as the control plane sees it. */
export interface RunningSandbox {
  readonly id: string
  readonly teamId: string
  hostId: string
  /** Where the edge reaches it; empty until its host has said so. */
  address: string
  phase: 'starting' | 'running' | 'killing'
  startedAt: number
  endAt: number
  readonly ingress: Ingress
  /** Set when the host reported the end before the start was recorded. */
  ended?: boolean
}

/** How traffic from outside reaches a sandbox. */
export interface Ingress {
  readonly isPrivate: boolean
  readonly maskRequestHost?: string
  readonly httpsPorts: readonly number[]
}

export type RouteListener = (sandboxId: string, present: boolean) => void

/**
 * What runs now: the directory of routes and the count per team. Every method is synchronous, so that a check
 * and what follows from it are one step.
 */
export class RunningSandboxes {
  readonly #byId = new Map<string, RunningSandbox>()
  readonly #countByTeam = new Map<string, number>()
  readonly #listeners = new Set<RouteListener>()

  get(id: string): RunningSandbox | undefined {
    return this.#byId.get(id)
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
  }

  /** Counts a sandbox that exists, whatever the limit. */
  add(sandbox: RunningSandbox): void {
    if (this.#byId.has(sandbox.id)) return
    this.#byId.set(sandbox.id, sandbox)
    this.#countByTeam.set(sandbox.teamId, (this.#countByTeam.get(sandbox.teamId) ?? 0) + 1)
    if (sandbox.phase === 'running' && sandbox.address !== '') this.#notify(sandbox.id, true)
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

  remove(id: string): void {
    const sandbox = this.#byId.get(id)
    if (!sandbox) return
    this.#byId.delete(id)
    const left = (this.#countByTeam.get(sandbox.teamId) ?? 1) - 1
    if (left > 0) this.#countByTeam.set(sandbox.teamId, left)
    else this.#countByTeam.delete(sandbox.teamId)
    if (sandbox.phase === 'running') this.#notify(id, false)
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
