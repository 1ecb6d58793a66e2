import type { Kysely } from 'kysely'
import type { Database } from '../schema.ts'

/** Pausing, and snapshots as builds of templates. */
export const wholeLife = {
  async up(db: Kysely<Database>): Promise<void> {
    const { schema } = db
    await schema.alterTable('sandboxes').addColumn('pause_mode', 'text').execute()
    await schema
      .alterTable('sandboxes')
      .addColumn('agent_unresponsive', 'integer', (column) => column.notNull().defaultTo(0))
      .execute()
    await schema
      .alterTable('templates')
      .addColumn('is_snapshot', 'integer', (column) => column.notNull().defaultTo(0))
      .execute()
    await schema.alterTable('template_builds').addColumn('source_sandbox_id', 'text').execute()
    await schema.alterTable('template_builds').addColumn('host_id', 'text').execute()
    await schema
      .createIndex('template_builds_by_source_sandbox_id')
      .on('template_builds')
      .columns(['source_sandbox_id'])
      .execute()
    await schema.createIndex('sandboxes_by_build_id').on('sandboxes').columns(['build_id']).execute()
  },
}
