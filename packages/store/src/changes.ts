import type { DatabaseSync } from 'node:sqlite'
import { sql } from 'kysely'
import pg from 'pg'
import { connectionTo } from './postgres.ts'
import type { StoreDb } from './schema.ts'

/** Tells caches that another process may have changed what they hold. */
export interface ChangeCounter {
  current(): number
  /** Called by a repository after it changed something that caches hold. */
  announce(): Promise<void>
  close(): Promise<void>
}

const CHANNEL = 'store_changes'
const RECONNECT_MS = 1_000

/** SQLite counts commits of other connections by itself. */
export function sqliteChanges(database: DatabaseSync): ChangeCounter {
  const statement = database.prepare('pragma data_version')
  let own = 0
  return {
    current: () => own + Number((statement.get() as { data_version: number }).data_version),
    async announce() {
      own += 1
    },
    async close() {},
  }
}

/** PostgreSQL tells by LISTEN. While the connection is broken every call counts as a change. */
export async function postgresChanges(url: string, db: StoreDb): Promise<ChangeCounter> {
  let counter = 0
  let connected = false
  let closed = false
  let client: pg.Client | undefined
  let timer: NodeJS.Timeout | undefined

  const connect = async (): Promise<void> => {
    const listener = new pg.Client(connectionTo(url))
    const lost = (): void => {
      if (client !== listener) return
      client = undefined
      connected = false
      if (!closed) timer = setTimeout(() => void connect().catch(() => {}), RECONNECT_MS).unref()
    }
    client = listener
    listener.on('notification', () => {
      counter += 1
    })
    listener.on('error', lost)
    listener.on('end', lost)
    try {
      await listener.connect()
      await listener.query(`listen ${CHANNEL}`)
      counter += 1
      connected = true
    } catch (error) {
      lost()
      throw error
    }
  }
  await connect()

  return {
    current() {
      if (!connected) counter += 1
      return counter
    },
    async announce() {
      counter += 1
      await sql`select pg_notify(${CHANNEL}, '')`.execute(db)
    },
    async close() {
      closed = true
      clearTimeout(timer)
      await client?.end()
    },
  }
}
