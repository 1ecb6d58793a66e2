import { afterAll, beforeAll, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi
beforeAll(async () => {
  test = await startTestApi()
})
afterAll(() => test.close())

const origin = 'https://page.example'

it('answers the preflight of a page without a key', async () => {
  const answer = await test.request('OPTIONS', '/v2/sandboxes', undefined, {
    'x-api-key': '',
    origin,
    'access-control-request-method': 'POST',
    'access-control-request-headers': 'x-api-key',
  })
  expect([answer.status, answer.text]).toEqual([204, ''])
  expect(answer.headers).toMatchObject({
    'access-control-allow-origin': '*',
    'access-control-allow-methods': expect.stringContaining('DELETE'),
    'access-control-allow-headers': expect.stringContaining('X-API-Key'),
  })
})

it('lets pages read answers and errors, and says nothing of it to others', async () => {
  for (const headers of [{ origin }, { origin, 'x-api-key': 'wrong' }]) {
    const answer = await test.request('GET', '/v2/sandboxes', undefined, headers)
    expect(answer.headers['access-control-allow-origin']).toBe('*')
    expect(answer.headers['access-control-expose-headers']).toContain('X-Next-Token')
  }
  const plain = await test.request('GET', '/v2/sandboxes')
  expect(plain.headers['access-control-allow-origin']).toBeUndefined()
  const options = await test.request('OPTIONS', '/v2/sandboxes')
  expect(options.status).toBe(404)
})
