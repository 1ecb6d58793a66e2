import type { Kysely } from 'kysely'
import type { Database } from '../schema.ts'

/** Indexes for what is looked up by another column than the first of a primary key. */
export const lookups = {
  async up(db: Kysely<Database>): Promise<void> {
    const { schema } = db
    await schema.createIndex('templates_by_team_id').on('templates').columns(['team_id', 'id']).execute()
    await schema.createIndex('template_aliases_by_alias').on('template_aliases').columns(['alias']).execute()
    await schema.createIndex('template_tags_by_build_id').on('template_tags').columns(['build_id']).execute()
  },
}
