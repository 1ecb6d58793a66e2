import { sql } from 'kysely'
import type { SandboxLogRow, StoreDb } from './schema.ts'

/** What to read of a sandbox's log. */
export interface LogQuery {
  /** Forward: from this time on, oldest first. Backward: up to this time, newest first. Milliseconds since 1970. */
  readonly cursor?: number | undefined
  readonly direction: 'forward' | 'backward'
  /** 0 debug, 1 info, 2 warn, 3 error. */
  readonly leastLevel: number
  /** Substring of the message, case matters; empty takes all. */
  readonly search: string
  readonly limit: number
}

const ROWS_PER_INSERT = 200
/** Microseconds of lines that one deletion of old ones takes at most: it holds up everything else. */
const DELETED_SPAN_US = 10 * 60 * 1e6
const MOST_DELETED = 2_000

/** Log lines of sandboxes, also of ended ones. */
export class SandboxLogRepository {
  readonly #db: StoreDb

  constructor(db: StoreDb) {
    this.#db = db
  }

  async insert(lines: readonly SandboxLogRow[]): Promise<void> {
    for (let at = 0; at < lines.length; at += ROWS_PER_INSERT) {
      await this.#db
        .insertInto('sandboxLogs')
        .values(lines.slice(at, at + ROWS_PER_INSERT))
        .execute()
    }
  }

  async read(sandboxId: string, query: LogQuery): Promise<SandboxLogRow[]> {
    const { cursor, direction, leastLevel, search, limit } = query
    const isForward = direction === 'forward'
    const order = isForward ? 'asc' : 'desc'
    let lines = this.#db.selectFrom('sandboxLogs').selectAll().where('sandboxId', '=', sandboxId)
    if (leastLevel > 0) lines = lines.where('level', '>=', leastLevel)
    if (cursor !== undefined) lines = lines.where('at', isForward ? '>=' : '<=', cursor)
    // Both databases compare case in this one, unlike in LIKE.
    if (search !== '') lines = lines.where(sql<boolean>`replace(message, ${search}, '') <> message`)
    return lines.orderBy('at', order).orderBy('seq', order).limit(limit).execute()
  }

  /** Whether there are lines of a sandbox of this team. */
  async has(teamId: string, sandboxId: string): Promise<boolean> {
    const line = await this.#db
      .selectFrom('sandboxLogs')
      .select('seq')
      .where('sandboxId', '=', sandboxId)
      .where('teamId', '=', teamId)
      .limit(1)
      .executeTakeFirst()
    return line !== undefined
  }

  /** Leaves the newest lines of a sandbox. */
  async trim(sandboxId: string, kept: number): Promise<void> {
    const newestToGo = await this.#db
      .selectFrom('sandboxLogs')
      .select('seq')
      .where('sandboxId', '=', sandboxId)
      .orderBy('seq', 'desc')
      .offset(kept)
      .limit(1)
      .executeTakeFirst()
    if (!newestToGo) return
    await this.#db
      .deleteFrom('sandboxLogs')
      .where('sandboxId', '=', sandboxId)
      .where('seq', '<=', newestToGo.seq)
      .execute()
  }

  /** Deletes some of the lines written before a time; answers whether there may be more. */
  async deleteSomeBefore(beforeMs: number): Promise<boolean> {
    const oldest = await this.#seqOfOldest(0)
    const beforeUs = beforeMs * 1000
    if (oldest === undefined || oldest >= beforeUs) return false
    const end = Math.min(beforeUs, oldest + DELETED_SPAN_US)
    await this.#db.deleteFrom('sandboxLogs').where('seq', '<', end).execute()
    return end < beforeUs
  }

  /** Deletes some of the oldest lines while there are more than `kept`; answers whether there may be more to delete. */
  async deleteSomeBeyond(kept: number): Promise<boolean> {
    const { count } = await this.#db
      .selectFrom('sandboxLogs')
      .select(({ fn }) => fn.countAll<number>().as('count'))
      .executeTakeFirstOrThrow()
    const excess = Number(count) - kept
    if (excess <= 0) return false
    const last = await this.#seqOfOldest(Math.min(excess, MOST_DELETED) - 1)
    if (last === undefined) return false
    await this.#db.deleteFrom('sandboxLogs').where('seq', '<=', last).execute()
    return excess > MOST_DELETED
  }

  async #seqOfOldest(offset: number): Promise<number | undefined> {
    const line = await this.#db
      .selectFrom('sandboxLogs')
      .select('seq')
      .orderBy('seq')
      .offset(offset)
      .limit(1)
      .executeTakeFirst()
    return line?.seq
  }
}
