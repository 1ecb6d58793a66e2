import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { StoreOptions } from '../store.ts'
import { startPostgres } from './postgres.ts'

/** Makes empty databases of one kind for tests. */
export interface TestDatabases {
  create(): Promise<StoreOptions>
  stop(): Promise<void>
}

async function sqliteDatabases(): Promise<TestDatabases> {
  const dir = mkdtempSync(join(tmpdir(), 'store-sqlite-'))
  let made = 0
  return {
    async create() {
      made += 1
      return { path: join(dir, `${made}.sqlite`) }
    },
    async stop() {
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

async function postgresDatabases(): Promise<TestDatabases> {
  const server = await startPostgres()
  return {
    async create() {
      return { url: await server.createDatabase() }
    },
    stop: () => server.stop(),
  }
}

/** Both kinds of database, for tests that must hold on each: name and starter. */
export const databaseKinds: readonly [name: string, start: () => Promise<TestDatabases>][] = [
  ['SQLite', sqliteDatabases],
  ['PostgreSQL', postgresDatabases],
]
