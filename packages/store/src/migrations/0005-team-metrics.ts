import type { Kysely } from 'kysely'
import type { Database } from '../schema.ts'

/** How many sandboxes each team had over time. */
export const teamMetrics = {
  async up(db: Kysely<Database>): Promise<void> {
    await db.schema
      .createTable('team_metrics')
      .addColumn('team_id', 'text', (column) => column.notNull())
      .addColumn('at', 'bigint', (column) => column.notNull())
      .addColumn('concurrent_sandboxes', 'integer', (column) => column.notNull())
      .addColumn('start_rate', 'double precision', (column) => column.notNull())
      .addPrimaryKeyConstraint('team_metrics_by_team', ['team_id', 'at'])
      .execute()
    await db.schema.createIndex('team_metrics_by_age').on('team_metrics').columns(['at']).execute()
  },
}
