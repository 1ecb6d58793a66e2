import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openSqliteFile } from './sqlite-dialect.ts'
import { openStore } from './store.ts'

const dir = mkdtempSync(join(tmpdir(), 'store-lookups-'))
const path = join(dir, 'db.sqlite')
beforeAll(async () => (await openStore({ path })).close())
afterAll(() => rmSync(dir, { recursive: true, force: true }))

it.each([
  `select * from templates where team_id = 't' and id > 'x' order by id`,
  `select * from template_aliases where alias = 'base'`,
  `delete from template_tags where build_id = 'b'`,
  `select * from template_builds where template_id = 't' order by created_at desc`,
  `select * from sandboxes where team_id = 't' order by started_at desc, id desc`,
  `select * from sandboxes where build_id in ('a', 'b')`,
  `select * from sandboxes where host_id = 'h'`,
  `select * from api_keys where hash = 'h'`,
  `select * from loose_snapshots where host_id = 'h'`,
  `select * from sandbox_logs where sandbox_id = 's' order by at, seq`,
])('is found by an index: %s', (sql) => {
  const database = openSqliteFile(path)
  const plan = database.prepare(`explain query plan ${sql}`).all() as { detail: string }[]
  database.close()
  expect(plan.map(({ detail }) => detail).join('\n')).toMatch(/^SEARCH \w+ USING .*INDEX/)
})
