import type { Kysely } from 'kysely'
import type { Database } from '../schema.ts'

/** The engine that sandboxes of a template run on. */
export const templateIsolation = {
  async up(db: Kysely<Database>): Promise<void> {
    await db.schema.alterTable('templates').addColumn('isolation', 'text').execute()
  },
}
