import { databaseKinds, type TestDatabases } from '@sandbox/store/testing/databases'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

const token = (text: string): string => Buffer.from(text).toString('base64url')

describe.each(databaseKinds)('input that no client sends, on %s', (_name, start) => {
  let databases: TestDatabases
  let test: TestApi
  let id: string
  beforeAll(async () => {
    databases = await start()
    test = await startTestApi({ database: await databases.create(), adminToken: 'operator' })
    id = (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).json<{ sandboxID: string }>()
      .sandboxID
    await test.request('POST', `/sandboxes/${id}/snapshots`, { name: 'state' })
  })
  afterAll(async () => {
    await test.close()
    await databases.stop()
  })

  it.each([
    ['GET', '/sandboxes/{id}/logs?limit=99999999999999999999'],
    ['GET', '/sandboxes/{id}/logs?start=99999999999999999999'],
    ['GET', '/v2/sandboxes/{id}/logs?cursor=99999999999999999999'],
    ['GET', '/sandboxes/{id}/metrics?start=99999999999999999999'],
    ['GET', '/sandboxes/{id}/metrics?end=99999999999999999999'],
    ['GET', '/templates/state/builds/%00/status'],
    ['GET', '/templates/state/builds/%00/logs'],
    ['GET', `/v2/templates?nextToken=${token('2020-01-01T00:00:00Z__\0__asc')}`],
    ['GET', `/v2/sandboxes?nextToken=${token('2020-01-01T00:00:00Z__\0')}`],
    ['GET', `/snapshots?nextToken=${token('2020-01-01T00:00:00Z__\0')}`],
    ['GET', '/v2/sandboxes?startedAfter=2026-12-31T23:59:60Z'],
    ['GET', '/v2/sandboxes?metadata=%00%3D1'],
    ['GET', '/sandboxes?metadata=a%3D%2500'],
    ['PATCH', '/api-keys/%00'],
    ['DELETE', '/api-keys/%00'],
    ['POST', '/admin/teams/%00/sandboxes/kill'],
  ])('%s %s is refused', async (method, url) => {
    const headers = url.startsWith('/admin') ? { 'x-admin-token': 'operator' } : {}
    const body = method === 'PATCH' ? { name: 'a' } : undefined
    const answer = await test.request(method, url.replace('{id}', id), body, headers)
    expect(answer.json()).toEqual({ code: 400, message: expect.any(String) })
  })

  it('takes the largest times that it accepts', async () => {
    const seconds = 2 ** 52
    for (const url of [
      `/sandboxes/${id}/metrics?start=${seconds}&end=${seconds}`,
      `/teams/${test.team.id}/metrics?end=${seconds}`,
      `/sandboxes/${id}/logs?start=${Number.MAX_SAFE_INTEGER}&limit=2147483647`,
      `/v2/sandboxes/${id}/logs?cursor=${Number.MAX_SAFE_INTEGER}`,
    ]) {
      expect((await test.request('GET', url)).status).toBe(200)
    }
  })

  it('refuses NUL in the name of a key', async () => {
    expect((await test.request('POST', '/api-keys', { name: 'a\0' })).status).toBe(400)
  })

  it('keeps half a character as U+FFFD, and lists of the team go on working', async () => {
    const metadata = { 'k\ud800': 'v\udfff' }
    const body = { templateID: 'base', metadata, envVars: metadata }
    const made = (await test.request('POST', '/v2/sandboxes', body)).json<{ sandboxID: string }>()
    const shown = (await test.request('GET', `/sandboxes/${made.sandboxID}`)).json()
    expect(shown.metadata).toEqual({ 'k\ufffd': 'v\ufffd' })
    const filter = encodeURIComponent(encodeURIComponent('k\ufffd=v\ufffd').replace('%3D', '='))
    const found = await test.request('GET', `/v2/sandboxes?metadata=${filter}`)
    expect(found.json<{ sandboxID: string }[]>().map(({ sandboxID }) => sandboxID)).toEqual([made.sandboxID])
  })

  it('bounds what is kept of a sandbox', async () => {
    const create = (body: object) => test.request('POST', '/v2/sandboxes', { templateID: 'base', ...body })
    const kib = (count: number) => 'ä'.repeat(count * 512)
    expect((await create({ metadata: { '': kib(256) } })).status).toBe(201)
    expect((await create({ metadata: { a: kib(256) } })).json()).toEqual({
      code: 400,
      message: 'metadata must be at most 262144 bytes together',
    })
    expect((await create({ envVars: { a: kib(512), b: kib(512) } })).status).toBe(400)
    expect((await create({ network: { httpsPorts: Array(1001).fill(443) } })).status).toBe(400)
  })

  it('refuses a body that is nested without end', async () => {
    const depth = 100_000
    const deep = `${'['.repeat(depth)}"\\ud800"${']'.repeat(depth)}`
    for (const nested of [deep, deep.replace('"\\ud800"', '')]) {
      const answer = await test.api.app.inject({
        method: 'POST',
        url: '/v2/sandboxes',
        headers: { 'x-api-key': test.key, 'idempotency-key': 'deep' },
        payload: `{"templateID":"base","mcp":{"a":${nested}}}`,
      })
      expect(answer.json()).toEqual({ code: 400, message: expect.stringContaining('Invalid request body') })
    }
  })
})
