import type { DatabaseSync } from 'node:sqlite'
import { CamelCasePlugin, Kysely, Migrator, PostgresDialect } from 'kysely'
import pg from 'pg'
import { ApiKeyRepository } from './api-keys.ts'
import { type ChangeCounter, postgresChanges, sqliteChanges } from './changes.ts'
import { IdempotencyKeyRepository } from './idempotency-keys.ts'
import { LooseSnapshotRepository } from './loose-snapshots.ts'
import { firstLight } from './migrations/0001-first-light.ts'
import { wholeLife } from './migrations/0002-whole-life.ts'
import { looseSnapshots } from './migrations/0003-loose-snapshots.ts'
import { observations } from './migrations/0004-observations.ts'
import { teamMetrics } from './migrations/0005-team-metrics.ts'
import { templateIsolation } from './migrations/0006-template-isolation.ts'
import { lookups } from './migrations/0007-lookups.ts'
import { connectionTo } from './postgres.ts'
import { SandboxLogRepository } from './sandbox-logs.ts'
import { SandboxMetricRepository } from './sandbox-metrics.ts'
import { SandboxRepository } from './sandboxes.ts'
import type { Database, StoreDb } from './schema.ts'
import { ServerSecretRepository } from './server-secrets.ts'
import { SnapshotRepository } from './snapshots.ts'
import { NodeSqliteDialect, openSqliteFile, syncSqliteFile } from './sqlite-dialect.ts'
import { TeamMetricRepository } from './team-metrics.ts'
import { TeamRepository } from './teams.ts'
import { TemplateBuildRepository } from './template-builds.ts'
import { TemplateRepository } from './templates.ts'

export interface StoreOptions {
  /** `postgres://…` or `postgresql://…`. Wins over `path`. */
  readonly url?: string
  /** SQLite file, made when missing; `:memory:` for one that lives with the process. */
  readonly path?: string
  /** Connections to PostgreSQL at once. */
  readonly maxConnections?: number
}

/** Everything that is kept. One repository per noun. */
export interface Store {
  readonly teams: TeamRepository
  readonly apiKeys: ApiKeyRepository
  readonly templates: TemplateRepository
  readonly templateBuilds: TemplateBuildRepository
  readonly sandboxes: SandboxRepository
  readonly snapshots: SnapshotRepository
  readonly looseSnapshots: LooseSnapshotRepository
  readonly idempotencyKeys: IdempotencyKeyRepository
  readonly sandboxLogs: SandboxLogRepository
  readonly sandboxMetrics: SandboxMetricRepository
  readonly teamMetrics: TeamMetricRepository
  readonly serverSecrets: ServerSecretRepository
  /**
   * A number that differs once another process may have changed teams, keys or templates: what a cache
   * compares before it answers. Costs microseconds, does no I/O on PostgreSQL.
   */
  version(): number
  /** Waits until everything written so far survives a loss of power. Without it the last seconds may be lost. */
  sync(): Promise<void>
  close(): Promise<void>
}

const CONNECT_TIMEOUT_MS = 10_000
const INT8_OID = 20

async function migrate(db: StoreDb): Promise<void> {
  const migrator = new Migrator({
    db,
    provider: {
      getMigrations: async () => ({
        '0001-first-light': firstLight,
        '0002-whole-life': wholeLife,
        '0003-loose-snapshots': looseSnapshots,
        '0004-observations': observations,
        '0005-team-metrics': teamMetrics,
        '0006-template-isolation': templateIsolation,
        '0007-lookups': lookups,
      }),
    },
  })
  const { error } = await migrator.migrateToLatest()
  if (error) throw error
}

function assemble(
  db: StoreDb,
  changes: ChangeCounter,
  metadataSyntax: 'sqlite' | 'postgres',
  sync: () => Promise<void>,
): Store {
  return {
    teams: new TeamRepository(db, changes),
    apiKeys: new ApiKeyRepository(db, changes),
    templates: new TemplateRepository(db, changes),
    templateBuilds: new TemplateBuildRepository(db, changes),
    sandboxes: new SandboxRepository(db, metadataSyntax),
    snapshots: new SnapshotRepository(db, changes),
    looseSnapshots: new LooseSnapshotRepository(db),
    idempotencyKeys: new IdempotencyKeyRepository(db),
    sandboxLogs: new SandboxLogRepository(db),
    sandboxMetrics: new SandboxMetricRepository(db),
    teamMetrics: new TeamMetricRepository(db),
    serverSecrets: new ServerSecretRepository(db),
    version: () => changes.current(),
    sync,
    async close() {
      await changes.close()
      await db.destroy()
    },
  }
}

async function openSqlite(path: string): Promise<Store> {
  const file: DatabaseSync = openSqliteFile(path)
  const db = new Kysely<Database>({ dialect: new NodeSqliteDialect(file), plugins: [new CamelCasePlugin()] })
  await migrate(db)
  const sync = path === ':memory:' ? async () => {} : () => syncSqliteFile(path)
  return assemble(db, sqliteChanges(file), 'sqlite', sync)
}

async function openPostgres(url: string, maxConnections: number): Promise<Store> {
  const types: pg.CustomTypesConfig = {
    getTypeParser: (oid: number, format?: 'text' | 'binary') =>
      oid === INT8_OID && format !== 'binary' ? Number : pg.types.getTypeParser(oid, format),
  }
  const pool = new pg.Pool({
    ...connectionTo(url),
    max: maxConnections,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    types,
  })
  // A connection that breaks while idle is replaced by the pool; without a listener it would end the process.
  pool.on('error', () => {})
  const db = new Kysely<Database>({
    dialect: new PostgresDialect({ pool }),
    plugins: [new CamelCasePlugin()],
  })
  await migrate(db)
  // A commit is on the disk when PostgreSQL answers it.
  return assemble(db, await postgresChanges(url, db), 'postgres', async () => {})
}

/**
 * Opens the store and brings its schema up to date.
 * @throws when the database cannot be reached or is of a newer schema
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  if (options.url) return openPostgres(options.url, options.maxConnections ?? 10)
  return openSqlite(options.path ?? ':memory:')
}
