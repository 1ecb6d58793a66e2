import type { Kysely } from 'kysely'
import type { Database } from '../schema.ts'

/** Snapshots on hosts that no build names. */
export const looseSnapshots = {
  async up(db: Kysely<Database>): Promise<void> {
    await db.schema
      .createTable('loose_snapshots')
      .addColumn('snapshot_id', 'text', (column) => column.primaryKey())
      .addColumn('host_id', 'text', (column) => column.notNull())
      .addColumn('owner', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .execute()
    await db.schema
      .createIndex('loose_snapshots_by_host_id')
      .on('loose_snapshots')
      .columns(['host_id'])
      .execute()
  },
}
