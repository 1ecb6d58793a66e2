import { afterEach, beforeEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi

beforeEach(async () => {
  test = await startTestApi()
})
afterEach(() => test.close())

interface Listed {
  sandboxID: string
  startedAt: string
  state: string
}

const createSandbox = async (body: object = {}): Promise<string> =>
  (await test.request('POST', '/v2/sandboxes', { templateID: 'base', ...body })).json<{ sandboxID: string }>()
    .sandboxID

const ids = async (query: string, path = '/v2/sandboxes'): Promise<string[]> =>
  (await test.request('GET', `${path}${query}`)).json<Listed[]>().map((sandbox) => sandbox.sandboxID)

it('pages newest first, and tells the next token only while there is more', async () => {
  const made: string[] = []
  for (let count = 0; count < 5; count += 1) made.push(await createSandbox())
  for (const order of ['asc', 'desc']) {
    const seen: string[] = []
    let token = ''
    do {
      const answer = await test.request(
        'GET',
        `/v2/sandboxes?limit=2&order=${order}${token && `&nextToken=${token}`}`,
      )
      expect(answer.headers['x-total-running']).toBe('5')
      seen.push(...answer.json<Listed[]>().map((sandbox) => sandbox.sandboxID))
      token = String(answer.headers['x-next-token'] ?? '')
    } while (token)
    expect([...seen].sort()).toEqual([...made].sort())
    const rows = await Promise.all(seen.map((id) => test.store.sandboxes.findById(id)))
    const starts = rows.map((row) => row!.startedAt)
    expect(starts).toEqual([...starts].sort((a, b) => (order === 'asc' ? a - b : b - a)))
  }
})

it('refuses broken tokens and tokens of the other order', async () => {
  await createSandbox()
  await createSandbox()
  const token = (await test.request('GET', '/v2/sandboxes?limit=1')).headers['x-next-token']
  for (const query of [`nextToken=${token}&order=asc`, 'nextToken=abc', 'nextToken=%00']) {
    const answer = await test.request('GET', `/v2/sandboxes?${query}`)
    expect(answer.json()).toEqual({ code: 400, message: 'Invalid next token' })
  }
})

it('filters by metadata encoded three times', async () => {
  const odd = { 'a key&=': 'ä+ 100%', plain: 'x' }
  const id = await createSandbox({ metadata: odd })
  await createSandbox({ metadata: { plain: 'x' } })
  const pairs = new URLSearchParams(
    Object.entries(odd).map(([key, value]): [string, string] => [
      encodeURIComponent(key),
      encodeURIComponent(value),
    ]),
  )
  const query = `?metadata=${encodeURIComponent(pairs.toString())}`
  expect(await ids(query)).toEqual([id])
  expect(await ids(query, '/sandboxes')).toEqual([id])
  expect((await test.request('GET', `/v2/sandboxes?metadata=${encodeURIComponent('a=b=c')}`)).status).toBe(
    400,
  )
  expect((await test.request('GET', `/v2/sandboxes?metadata=${encodeURIComponent('%zz=1')}`)).status).toBe(
    400,
  )
})

it('filters by state, start and template', async () => {
  const first = await createSandbox()
  const paused = await createSandbox()
  await test.store.sandboxes.update(paused, { state: 'paused', hostId: null })
  expect(await ids('?state=running')).toEqual([first])
  expect(await ids('?state=paused')).toEqual([paused])
  expect((await ids('?state=running,paused')).sort()).toEqual([first, paused].sort())
  expect(await ids('', '/sandboxes')).toEqual([first])
  const onlyPaused = await test.request('GET', '/v2/sandboxes?state=paused')
  expect(onlyPaused.headers).not.toHaveProperty('x-total-running')
  for (const template of ['base', 'platform/base', test.templateId]) {
    expect(await ids(`?template=${encodeURIComponent(template)}`)).toHaveLength(2)
  }
  const unknown = await test.request('GET', '/v2/sandboxes?template=nothing')
  expect([unknown.json(), unknown.headers['x-total-running']]).toEqual([[], '0'])
  const future = encodeURIComponent(new Date(Date.now() + 60_000).toISOString())
  expect(await ids(`?startedAfter=${future}`)).toEqual([])
})

it.each([
  'state=dead',
  'limit=0',
  'limit=101',
  'limit=x',
  'order=up',
  'startedAfter=yesterday',
  'template=base:default',
])('refuses %s with 400', async (query) => {
  expect((await test.request('GET', `/v2/sandboxes?${query}`)).status).toBe(400)
})
