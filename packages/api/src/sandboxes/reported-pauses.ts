import type { Store } from '@sandbox/store/store'
import type { RunningSandboxes } from './running.ts'

export interface ReportedPauseParts {
  readonly store: Store
  readonly running: RunningSandboxes
}

/**
 * Pauses that a host began by itself, at the end of a sandbox's time: until their outcome is reported the sandbox is
 * pausing here as well, so that whoever wants it waits.
 */
export class ReportedPauses {
  readonly #parts: ReportedPauseParts
  readonly #hostId: string
  readonly #settleById = new Map<string, () => void>()

  constructor(hostId: string, parts: ReportedPauseParts) {
    this.#hostId = hostId
    this.#parts = parts
  }

  /** Whatever is not plainly running here is being changed by a request, which takes care of it. */
  async begin(sandboxId: string): Promise<void> {
    const { store, running } = this.#parts
    const sandbox = running.get(sandboxId)
    if (sandbox?.phase !== 'running' || sandbox.hostId !== this.#hostId) return
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#settleById.set(sandboxId, resolve)
    sandbox.phase = 'pausing'
    void running.during(sandbox, () => promise)
    running.reconsider(sandbox)
    await store.sandboxes.update(sandboxId, { state: 'pausing' })
  }

  /** Lets those go on who wait for the outcome, which has been dealt with. */
  settle(sandboxId: string): void {
    this.#settleById.get(sandboxId)?.()
    this.#settleById.delete(sandboxId)
  }

  /** The pause failed: the sandbox is as it was. Answers whether it was one of these. */
  async goOn(sandboxId: string): Promise<boolean> {
    if (!this.#settleById.has(sandboxId)) return false
    const { store, running } = this.#parts
    const sandbox = running.get(sandboxId)
    try {
      if (sandbox?.phase === 'pausing') {
        running.publish(sandbox, sandbox.hostId, sandbox.address)
        await store.sandboxes.update(sandboxId, { state: 'running' })
      }
    } finally {
      this.settle(sandboxId)
    }
    return true
  }

  /** After reports were missed: what does not pause on the host any more is looked at anew, as running. */
  reopen(stillPausing: ReadonlySet<string>): void {
    const { running } = this.#parts
    for (const sandboxId of [...this.#settleById.keys()]) {
      if (stillPausing.has(sandboxId)) continue
      const sandbox = running.get(sandboxId)
      if (sandbox?.phase === 'pausing') running.publish(sandbox, sandbox.hostId, sandbox.address)
      this.settle(sandboxId)
    }
  }

  /** Nobody is to wait for a report that will not come. */
  close(): void {
    for (const sandboxId of [...this.#settleById.keys()]) this.settle(sandboxId)
  }
}
