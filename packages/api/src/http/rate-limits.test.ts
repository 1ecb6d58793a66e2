import { afterEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'
import { parseRateLimits, RateCounter } from './rate-limits.ts'

let test: TestApi | undefined
afterEach(async () => {
  await test?.close()
  test = undefined
})

it('lets a burst through, then one call for each token that has come back', () => {
  const counter = new RateCounter()
  const limit = { rate: 2, burst: 3, periodSec: 1 }
  const at = (nowMs: number) => counter.take('team', limit, nowMs)
  expect([0, 0, 0].map((now) => at(now).remaining)).toEqual([2, 1, 0])
  expect(at(100)).toEqual({ isAllowed: false, remaining: 0, resetAfterMs: 1_400, retryAfterMs: 400 })
  expect(at(500)).toMatchObject({ isAllowed: true, remaining: 0 })
  expect(at(600).isAllowed).toBe(false)
  expect(at(60_000).remaining).toBe(2)
  expect(counter.take('other', limit, 600).remaining).toBe(2)
})

it('answers 429 with what clients wait by, for each team and route by itself', async () => {
  const rateLimits = parseRateLimits(
    '{"/sandboxes/{sandboxID}": {"rate": 1, "burst": 2, "period_s": 60}, "*": {"rate": 100, "burst": 100}}',
  )
  test = await startTestApi({ rateLimits })
  const { key } = await test.otherTeam()
  const get = (headers = {}) => test!.request('GET', '/sandboxes/inothing', undefined, headers)
  const first = await get()
  expect([first.status, first.headers['ratelimit-limit'], first.headers['ratelimit-remaining']]).toEqual([
    404,
    '2',
    '1',
  ])
  await get()
  const refused = await get()
  expect([refused.status, refused.json()]).toEqual([429, { code: 429, message: 'Rate limit exceeded' }])
  expect(refused.headers).toMatchObject({
    'should-retry': 'true',
    'ratelimit-remaining': '0',
    'retry-after': expect.stringMatching(/^(59|60)$/),
    'ratelimit-reset': expect.stringMatching(/^(119|120)$/),
  })
  expect((await get({ 'x-api-key': key })).status).toBe(404)
  const other = await test.request('GET', '/v2/sandboxes')
  expect([other.status, other.headers['ratelimit-limit']]).toEqual([200, '100'])
})

it('counts nothing where nothing is set', async () => {
  test = await startTestApi()
  expect((await test.request('GET', '/v2/sandboxes')).headers['ratelimit-limit']).toBeUndefined()
})

it.each(['[]', 'x', '{"/a": 1}', '{"/a": {"rate": 0, "burst": 1}}', '{"/a": {"rate": 1}}'])(
  'refuses limits that say nothing: %s',
  (json) => {
    expect(() => parseRateLimits(json)).toThrow('rate limit')
  },
)
