import type { Kysely } from 'kysely'
import type { Database } from '../schema.ts'

/** Log lines and metrics of sandboxes. Neither refers to a sandbox's row: they outlive it. */
export const observations = {
  async up(db: Kysely<Database>): Promise<void> {
    const { schema } = db
    await schema
      .createTable('sandbox_logs')
      .addColumn('sandbox_id', 'text', (column) => column.notNull())
      .addColumn('team_id', 'text', (column) => column.notNull())
      .addColumn('at', 'bigint', (column) => column.notNull())
      .addColumn('seq', 'bigint', (column) => column.notNull())
      .addColumn('level', 'integer', (column) => column.notNull())
      .addColumn('message', 'text', (column) => column.notNull())
      .addColumn('fields', 'text', (column) => column.notNull())
      .execute()
    await schema
      .createIndex('sandbox_logs_by_sandbox')
      .on('sandbox_logs')
      .columns(['sandbox_id', 'at', 'seq'])
      .execute()
    await schema.createIndex('sandbox_logs_by_seq').on('sandbox_logs').columns(['seq']).execute()
    await schema
      .createTable('sandbox_metrics')
      .addColumn('sandbox_id', 'text', (column) => column.notNull())
      .addColumn('at', 'bigint', (column) => column.notNull())
      .addColumn('is_coarse', 'integer', (column) => column.notNull())
      .addColumn('cpu_count', 'integer', (column) => column.notNull())
      .addColumn('cpu_used_pct', 'double precision', (column) => column.notNull())
      .addColumn('memory_used_bytes', 'bigint', (column) => column.notNull())
      .addColumn('memory_total_bytes', 'bigint', (column) => column.notNull())
      .addColumn('memory_cache_bytes', 'bigint', (column) => column.notNull())
      .addColumn('disk_used_bytes', 'bigint', (column) => column.notNull())
      .addColumn('disk_total_bytes', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('sandbox_metrics_by_sandbox', ['sandbox_id', 'at'])
      .execute()
    await schema
      .createIndex('sandbox_metrics_by_age')
      .on('sandbox_metrics')
      .columns(['is_coarse', 'at'])
      .execute()
  },
}
