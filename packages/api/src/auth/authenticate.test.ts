import { afterEach, beforeEach, expect, it } from 'vitest'
import { createApiKey } from '../operator.ts'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi

beforeEach(async () => {
  test = await startTestApi()
})
afterEach(() => test.close())

it.each([
  {},
  { 'x-api-key': '' },
  { 'x-api-key': 'e2b_00' },
  { 'x-api-key': 'x'.repeat(5000) },
  { authorization: 'Bearer no' },
])('answers 401 in the normal shape to %j', async (headers) => {
  const answer = await test.api.app.inject({ url: '/v2/sandboxes', headers })
  expect(answer.statusCode).toBe(401)
  expect(answer.json()).toEqual({ code: 401, message: expect.any(String) })
  expect(answer.headers).toMatchObject({
    'should-retry': 'false',
    'x-e2b-trace-id': expect.stringMatching(/^[0-9a-f]{32}$/),
  })
})

it('takes the key as a bearer token, and shows the team to the CLI', async () => {
  const answer = await test.api.app.inject({
    url: '/teams',
    headers: { authorization: `Bearer ${test.key}` },
  })
  expect(answer.json()).toEqual([{ teamID: test.team.id, name: 'Test', apiKey: test.key, isDefault: true }])
})

it('refuses a key from the moment it is deleted', async () => {
  const { id, key } = await createApiKey(test.store, test.team.id, 'short-lived')
  const headers = { 'x-api-key': key }
  expect((await test.request('GET', '/v2/sandboxes', undefined, headers)).status).toBe(200)
  await test.store.apiKeys.delete(test.team.id, id)
  expect((await test.request('GET', '/v2/sandboxes', undefined, headers)).status).toBe(401)
})

it('lets a blocked team only read and delete and a banned one do nothing, at once', async () => {
  const { sandboxID } = (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).json()
  expect((await test.request('GET', '/v2/sandboxes')).status).toBe(200)
  await test.store.teams.update(test.team.id, { isBlocked: 1 })
  expect((await test.request('GET', '/v2/sandboxes')).status).toBe(200)
  expect((await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).status).toBe(403)
  expect((await test.request('POST', `/sandboxes/${sandboxID}/timeout`, { timeout: 60 })).status).toBe(403)
  expect((await test.request('DELETE', `/sandboxes/${sandboxID}`)).status).toBe(204)
  await test.store.teams.update(test.team.id, { isBanned: 1 })
  expect((await test.request('GET', '/v2/sandboxes')).status).toBe(403)
})

it('makes keys that old clients accept, keeps only hashes, and records their use', async () => {
  expect(test.key).toMatch(/^e2b_[0-9a-f]{40}$/)
  await test.request('GET', '/v2/sandboxes')
  const stored = async () => (await test.store.apiKeys.list(test.team.id))[0]!
  await expect.poll(async () => (await stored()).lastUsedAt).toEqual(expect.any(Number))
  expect(JSON.stringify(await stored())).not.toContain(test.key.slice(4))
})

it('answers health without a key and unknown routes with 404 in the normal shape', async () => {
  const health = await test.api.app.inject({ url: '/health' })
  expect([health.statusCode, health.body]).toEqual([200, 'Health check successful'])
  const unknown = await test.api.app.inject({ url: '/nothing?secret=1' })
  expect(unknown.json()).toEqual({ code: 404, message: 'No such route: GET /nothing' })
  expect(unknown.headers['should-retry']).toBe('false')
})

it.each(['/sandboxes/%zz', `/sandboxes/${'x'.repeat(600)}`])(
  'answers in the normal shape to the path %s',
  async (url) => {
    const answer = await test.api.app.inject({ url, headers: { 'x-api-key': test.key } })
    expect(answer.statusCode).toBeGreaterThanOrEqual(400)
    expect(answer.statusCode).toBeLessThan(500)
    expect(answer.json()).toEqual({ code: answer.statusCode, message: expect.any(String) })
    expect(answer.headers).toMatchObject({ 'should-retry': 'false', 'x-e2b-trace-id': expect.any(String) })
  },
)
