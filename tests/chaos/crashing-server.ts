import { setTimeout as delay } from 'node:timers/promises'
import type { TestServer } from '../system/harness/server.ts'
import type { Random } from './random.ts'

const START_WITHIN_MS = 60_000
const MAX_DELAY_MS = 1_500
const MAX_START_KILLED_MS = 1_000

/** Rejects when the work takes longer; the work itself is not ended. */
export async function within<T>(limitMs: number, what: string, work: Promise<T>): Promise<T> {
  const late = new AbortController()
  const limit = delay(limitMs, undefined, { signal: late.signal }).then(() => {
    throw new Error(`${what} took longer than ${limitMs} ms`)
  })
  try {
    return await Promise.race([work, limit])
  } finally {
    late.abort()
    limit.catch(() => {})
  }
}

/** A server that dies now and then, also while it starts, and always comes back. */
export class CrashingServer {
  readonly #server: TestServer
  readonly #random: Random
  #up: Promise<void> = Promise.resolve()
  #kills = 0

  constructor(server: TestServer, random: Random) {
    this.#server = server
    this.#random = random
  }

  /** SIGKILLs so far: work during which this number changed may have failed because of one. */
  get kills(): number {
    return this.#kills
  }

  /** Resolves while the server runs, or when it is back; rejects when it did not come back. */
  whenUp(): Promise<void> {
    return this.#up
  }

  /** Kills at a random instant soon and starts again. */
  async crash(): Promise<void> {
    await delay(this.#random.next() * MAX_DELAY_MS)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    promise.catch(() => {})
    this.#up = promise
    try {
      await this.#kill()
      if (this.#random.chance(0.2)) await this.#dieStarting()
      await within(START_WITHIN_MS, 'a start after SIGKILL', this.#server.start())
      resolve()
    } catch (error) {
      reject(error)
      throw error
    }
  }

  async #kill(): Promise<void> {
    this.#kills += 1
    await this.#server.kill()
  }

  async #dieStarting(): Promise<void> {
    const starting = this.#server.start().catch(() => {})
    await delay(this.#random.next() * MAX_START_KILLED_MS)
    await this.#kill()
    await starting
  }
}
