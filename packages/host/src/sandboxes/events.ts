import type { Paused } from '../snapshots/kept-snapshots.ts'
import type { EndReason } from './sandbox-states.ts'
import type { SandboxView } from './sandbox-view.ts'

export type SandboxEvent =
  | { kind: 'synced' }
  | { kind: 'started'; sandbox: SandboxView }
  | { kind: 'pausing'; sandboxId: string }
  | { kind: 'pauseFailed'; sandboxId: string; reason: string; retryAtMs: number | undefined }
  | { kind: 'ended'; sandboxId: string; reason: EndReason; atMs: number; paused?: Paused }

/** A subscriber that lags behind by more than this is cut off: it must list again and watch anew. */
const LONGEST_BACKLOG = 10_000

interface Subscriber {
  readonly backlog: SandboxEvent[]
  wake: () => void
  lagged: boolean
}

/** Sandbox transitions, to any number of subscribers, each at its own pace. */
export class Events {
  readonly #subscribers = new Set<Subscriber>()
  #closed = false

  publish(event: SandboxEvent): void {
    for (const subscriber of this.#subscribers) {
      if (subscriber.backlog.length >= LONGEST_BACKLOG) subscriber.lagged = true
      else subscriber.backlog.push(event)
      subscriber.wake()
    }
  }

  /**
   * Yields `synced`, then every event published from the call on, until `signal` or `close`.
   * @throws Error when the subscriber reads too slowly
   */
  watch(signal: AbortSignal): AsyncGenerator<SandboxEvent> {
    const subscriber: Subscriber = { backlog: [{ kind: 'synced' }], wake: () => {}, lagged: false }
    this.#subscribers.add(subscriber)
    return this.#drain(subscriber, signal)
  }

  /** Ends all subscriptions. */
  close(): void {
    this.#closed = true
    for (const subscriber of this.#subscribers) subscriber.wake()
  }

  async *#drain(subscriber: Subscriber, signal: AbortSignal): AsyncGenerator<SandboxEvent> {
    const onAbort = (): void => subscriber.wake()
    signal.addEventListener('abort', onAbort)
    try {
      for (;;) {
        for (let next = subscriber.backlog.shift(); next; next = subscriber.backlog.shift()) yield next
        if (subscriber.lagged) throw new Error('the watcher reads too slowly and missed events')
        if (this.#closed || signal.aborted) return
        await new Promise<void>((resolve) => {
          subscriber.wake = resolve
        })
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.#subscribers.delete(subscriber)
    }
  }
}
