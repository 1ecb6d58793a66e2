import type { CreateTableBuilder, Kysely } from 'kysely'
import type { Database } from '../schema.ts'

type Schema = Kysely<Database>['schema']

function identity(schema: Schema): CreateTableBuilder<string, string>[] {
  return [
    schema
      .createTable('teams')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('slug', 'text', (column) => column.notNull().unique())
      .addColumn('max_sandboxes', 'integer')
      .addColumn('max_hours', 'integer')
      .addColumn('is_blocked', 'integer', (column) => column.notNull().defaultTo(0))
      .addColumn('is_banned', 'integer', (column) => column.notNull().defaultTo(0))
      .addColumn('created_at', 'bigint', (column) => column.notNull()),
    schema
      .createTable('api_keys')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('team_id', 'text', (column) => column.notNull().references('teams.id').onDelete('cascade'))
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('hash', 'text', (column) => column.notNull().unique())
      .addColumn('prefix', 'text', (column) => column.notNull())
      .addColumn('value_length', 'integer', (column) => column.notNull())
      .addColumn('masked_value_prefix', 'text', (column) => column.notNull())
      .addColumn('masked_value_suffix', 'text', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('last_used_at', 'bigint'),
    schema
      .createTable('server_secrets')
      .addColumn('name', 'text', (column) => column.primaryKey())
      .addColumn('value', 'text', (column) => column.notNull()),
  ]
}

function templates(schema: Schema): CreateTableBuilder<string, string>[] {
  return [
    schema
      .createTable('templates')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('team_id', 'text', (column) => column.notNull().references('teams.id'))
      .addColumn('is_public', 'integer', (column) => column.notNull())
      .addColumn('is_default', 'integer', (column) => column.notNull())
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('updated_at', 'bigint', (column) => column.notNull())
      .addColumn('spawn_count', 'integer', (column) => column.notNull().defaultTo(0))
      .addColumn('last_spawned_at', 'bigint'),
    schema
      .createTable('template_aliases')
      .addColumn('team_id', 'text', (column) => column.notNull().references('teams.id'))
      .addColumn('alias', 'text', (column) => column.notNull())
      .addColumn('template_id', 'text', (column) =>
        column.notNull().references('templates.id').onDelete('cascade'),
      )
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('template_aliases_pk', ['team_id', 'alias']),
    schema
      .createTable('template_builds')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('template_id', 'text', (column) =>
        column.notNull().references('templates.id').onDelete('cascade'),
      )
      .addColumn('status', 'text', (column) => column.notNull())
      .addColumn('snapshot_id', 'text')
      .addColumn('envd_version', 'text')
      .addColumn('cpu_count', 'integer', (column) => column.notNull())
      .addColumn('memory_mib', 'integer', (column) => column.notNull())
      .addColumn('disk_mib', 'integer', (column) => column.notNull())
      .addColumn('reason', 'text')
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addColumn('updated_at', 'bigint', (column) => column.notNull())
      .addColumn('finished_at', 'bigint'),
    schema
      .createTable('template_tags')
      .addColumn('template_id', 'text', (column) =>
        column.notNull().references('templates.id').onDelete('cascade'),
      )
      .addColumn('tag', 'text', (column) => column.notNull())
      .addColumn('build_id', 'text', (column) =>
        column.notNull().references('template_builds.id').onDelete('cascade'),
      )
      .addColumn('assigned_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('template_tags_pk', ['template_id', 'tag']),
  ]
}

function sandboxes(schema: Schema): CreateTableBuilder<string, string>[] {
  return [
    schema
      .createTable('sandboxes')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('team_id', 'text', (column) => column.notNull().references('teams.id'))
      .addColumn('template_id', 'text', (column) => column.notNull())
      .addColumn('build_id', 'text', (column) => column.notNull())
      .addColumn('snapshot_id', 'text', (column) => column.notNull())
      .addColumn('host_id', 'text')
      .addColumn('alias', 'text')
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('started_at', 'bigint', (column) => column.notNull())
      .addColumn('end_at', 'bigint', (column) => column.notNull())
      .addColumn('timeout_ms', 'bigint', (column) => column.notNull())
      .addColumn('cpu_count', 'integer', (column) => column.notNull())
      .addColumn('memory_mib', 'integer', (column) => column.notNull())
      .addColumn('disk_mib', 'integer', (column) => column.notNull())
      .addColumn('envd_version', 'text', (column) => column.notNull())
      .addColumn('metadata', 'text', (column) => column.notNull())
      .addColumn('config', 'text', (column) => column.notNull())
      .addColumn('sealed_env', 'text', (column) => column.notNull()),
    schema
      .createTable('idempotency_keys')
      .addColumn('team_id', 'text', (column) => column.notNull().references('teams.id').onDelete('cascade'))
      .addColumn('key', 'text', (column) => column.notNull())
      .addColumn('request_hash', 'text', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('owner', 'text', (column) => column.notNull())
      .addColumn('sandbox_id', 'text', (column) => column.notNull())
      .addColumn('answer', 'text')
      .addColumn('created_at', 'bigint', (column) => column.notNull())
      .addPrimaryKeyConstraint('idempotency_keys_pk', ['team_id', 'key']),
  ]
}

/** Teams, keys, templates and sandboxes. */
export const firstLight = {
  async up(db: Kysely<Database>): Promise<void> {
    for (const table of [...identity(db.schema), ...templates(db.schema), ...sandboxes(db.schema)]) {
      await table.execute()
    }
    const indexes: [table: string, columns: string[]][] = [
      ['api_keys', ['team_id']],
      ['template_aliases', ['template_id']],
      ['template_builds', ['template_id', 'created_at']],
      ['sandboxes', ['team_id', 'started_at', 'id']],
      ['sandboxes', ['host_id']],
      ['sandboxes', ['template_id']],
      ['idempotency_keys', ['created_at']],
    ]
    for (const [table, columns] of indexes) {
      await db.schema.createIndex(`${table}_by_${columns[0]}`).on(table).columns(columns).execute()
    }
  },
}
