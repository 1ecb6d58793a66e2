import type pg from 'pg'

/** A server that is gone without a word (a network that was cut) is noticed within seconds more than this. */
const SILENCE_MS = 10_000

/** How every connection to PostgreSQL is made: also one that only listens finds out that nobody is there any more. */
export const connectionTo = (url: string): pg.ClientConfig => ({
  connectionString: url,
  keepAlive: true,
  keepAliveInitialDelayMillis: SILENCE_MS,
})
