import { setTimeout as delay } from 'node:timers/promises'

/** Resolves when the promise has settled, at the latest after `ms`. */
export async function settledWithin(promise: Promise<unknown>, ms: number): Promise<void> {
  const timer = new AbortController()
  const timeout = delay(ms, undefined, { signal: timer.signal }).catch(() => undefined)
  try {
    await Promise.race([promise, timeout])
  } catch {
    // It has settled.
  }
  timer.abort()
}
