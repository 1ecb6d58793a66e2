import { databaseKinds, type TestDatabases } from '@sandbox/store/testing/databases'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

interface Key {
  id: string
  name: string
  key: string
  lastUsed: string | null
}

describe.each(databaseKinds)('keys and tags on %s', (_name, start) => {
  let databases: TestDatabases
  let test: TestApi
  beforeAll(async () => {
    databases = await start()
  })
  afterAll(() => databases.stop())
  beforeEach(async () => {
    test = await startTestApi({ database: await databases.create() })
  })
  afterEach(() => test.close())

  const list = async (key?: string) =>
    (await test.request('GET', '/api-keys', undefined, key ? { 'x-api-key': key } : {})).json<Key[]>()

  it('shows a new key once, masks it afterwards, and records its use', async () => {
    const made = await test.request('POST', '/api-keys', { name: 'ci' })
    expect(made.status).toBe(201)
    const { key, ...shown } = made.json<Key>()
    expect(key).toMatch(/^e2b_[0-9a-f]{40}$/)
    expect(shown).toEqual({
      id: expect.any(String),
      name: 'ci',
      mask: {
        prefix: 'e2b_',
        valueLength: 40,
        maskedValuePrefix: key.slice(4, 6),
        maskedValueSuffix: key.slice(-4),
      },
      createdAt: expect.any(String),
      createdBy: null,
      lastUsed: null,
    })
    expect((await list(key)).map(({ name }) => name)).toEqual(['test', 'ci'])
    expect(JSON.stringify(await list())).not.toContain(key.slice(4))
    await expect.poll(async () => (await list()).find(({ name }) => name === 'ci')?.lastUsed).toMatch(/^20/)
  })

  it('renames and deletes, of the own team only', async () => {
    const { id, key } = (await test.request('POST', '/api-keys', { name: 'ci' })).json<Key>()
    const renamed = await test.request('PATCH', `/api-keys/${id}`, { name: 'build' })
    expect([renamed.status, renamed.headers['content-length']]).toEqual([200, '0'])
    expect((await list()).map(({ name }) => name)).toEqual(['test', 'build'])
    const foreign = { 'x-api-key': (await test.otherTeam()).key }
    expect((await test.request('PATCH', `/api-keys/${id}`, { name: 'x' }, foreign)).status).toBe(404)
    expect((await test.request('DELETE', `/api-keys/${id}`, undefined, foreign)).status).toBe(404)
    expect((await test.request('DELETE', `/api-keys/${id}`)).status).toBe(204)
    expect((await test.request('DELETE', `/api-keys/${id}`)).status).toBe(404)
    expect((await test.request('GET', '/api-keys', undefined, { 'x-api-key': key })).status).toBe(401)
    expect((await test.request('POST', '/api-keys', { name: '' })).status).toBe(400)
  })

  it('assigns, lists and removes tags', async () => {
    const created = await test.request('POST', '/v2/sandboxes', { templateID: 'base' })
    const { sandboxID } = created.json<{ sandboxID: string }>()
    await test.request('POST', `/sandboxes/${sandboxID}/snapshots`, { name: 'app' })
    const assigned = await test.request('POST', '/templates/tags', { target: 'app', tags: ['V1', 'prod'] })
    expect(assigned.status).toBe(201)
    const { buildID } = assigned.json<{ buildID: string }>()
    expect(assigned.json()).toEqual({ tags: ['v1', 'prod'], buildID })
    const tags = async () =>
      (await test.request('GET', '/templates/test%2Fapp/tags')).json<{ tag: string; buildID: string }[]>()
    expect(await tags()).toEqual(
      ['default', 'prod', 'v1'].map((tag) => ({ tag, buildID, createdAt: expect.any(String) })),
    )
    expect((await test.request('POST', '/v2/sandboxes', { templateID: 'app:prod' })).status).toBe(201)
    const remove = (name: string, names: string[]) =>
      test.request('DELETE', '/templates/tags', { name, tags: names })
    expect((await remove('app', ['default'])).status).toBe(400)
    expect((await remove('app:v1', ['v1'])).status).toBe(400)
    expect((await remove('base', ['x'])).status).toBe(403)
    expect((await remove('app', ['v1', 'prod', 'missing'])).status).toBe(204)
    expect((await tags()).map(({ tag }) => tag)).toEqual(['default'])
    for (const bad of ['no good', '0C2F1F6E-6F3C-4B77-8C0A-2F0D8E1B6A55']) {
      const answer = await test.request('POST', '/templates/tags', { target: 'app', tags: ['good', bad] })
      expect(answer.status).toBe(400)
    }
    expect((await tags()).map(({ tag }) => tag)).toEqual(['default'])
    const missing = await test.request('POST', '/templates/tags', { target: 'nothing', tags: ['a'] })
    expect(missing.status).toBe(404)
  })
})
