import { afterEach, beforeEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi
beforeEach(async () => {
  test = await startTestApi()
})
afterEach(() => test.close())

const createSandbox = async (): Promise<string> =>
  (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).json<{ sandboxID: string }>()
    .sandboxID

interface LogEntry {
  timestamp: string
  message: string
  level: string
  fields: Record<string, string>
}

it('answers metrics as soon as a sample was taken', async () => {
  const id = await createSandbox()
  expect((await test.request('GET', `/sandboxes/${id}/metrics`)).json()).toEqual([])
  await expect
    .poll(async () => (await test.request('GET', `/sandboxes/${id}/metrics`)).json<object[]>(), {
      timeout: 8_000,
      interval: 250,
    })
    .toEqual([
      {
        timestamp: expect.any(String),
        timestampUnix: expect.any(Number),
        cpuCount: 2,
        cpuUsedPct: 12.5,
        memUsed: 64 * 2 ** 20,
        memTotal: 512 * 2 ** 20,
        memCache: 2 ** 20,
        diskUsed: 3 * 2 ** 20,
        diskTotal: 1024 * 2 ** 20,
      },
    ])
  const latest = await test.request('GET', `/sandboxes/metrics?sandbox_ids=${id},iother`)
  expect(Object.keys(latest.json<{ sandboxes: object }>().sandboxes)).toEqual([id])
  const old = await test.request('GET', `/sandboxes/${id}/metrics?start=1&end=2`)
  expect(old.json()).toEqual([])
  const foreign = { 'x-api-key': (await test.otherTeam()).key }
  expect((await test.request('GET', `/sandboxes/${id}/metrics`, undefined, foreign)).status).toBe(404)
  const none = await test.request('GET', `/sandboxes/metrics?sandbox_ids=${id}`, undefined, foreign)
  expect(none.json()).toEqual({ sandboxes: {} })
}, 15_000)

it.each([
  '/sandboxes/metrics',
  '/sandboxes/metrics?sandbox_ids=ia,ia',
  `/sandboxes/metrics?sandbox_ids=${Array.from({ length: 101 }, (_unused, n) => `i${n}`).join()}`,
  '/sandboxes/ia/metrics?start=2&end=1',
  '/sandboxes/ia/metrics?start=x',
  '/v2/sandboxes/ia/logs?limit=1001',
  '/v2/sandboxes/ia/logs?level=loud',
])('refuses %s', async (url) => {
  expect((await test.request('GET', url)).status).toBe(400)
})

it('answers 404 for metrics and logs of unknown sandboxes', async () => {
  for (const url of ['/sandboxes/ia/metrics', '/sandboxes/ia/logs', '/v2/sandboxes/ia/logs']) {
    expect((await test.request('GET', url)).json()).toMatchObject({ code: 404 })
  }
})

it('tells the life of a sandbox, also after its end, in lines that the CLI can parse', async () => {
  const id = await createSandbox()
  await test.request('POST', `/sandboxes/${id}/pause`)
  await test.request('POST', `/sandboxes/${id}/connect`, { timeout: 60 })
  await test.request('DELETE', `/sandboxes/${id}`)
  const { logs, logEntries } = (await test.request('GET', `/sandboxes/${id}/logs`)).json<{
    logs: { line: string }[]
    logEntries: LogEntry[]
  }>()
  const messages = logEntries.map(({ message }) => message)
  expect(messages).toEqual(['Sandbox created', 'Sandbox paused', 'Sandbox resumed', 'Sandbox killed'])
  expect(logs.map(({ line }) => JSON.parse(line))).toMatchObject(
    messages.map((message) => ({ message, level: 'info', logger: 'sandbox' })),
  )
  const read = async (query: string) =>
    (await test.request('GET', `/v2/sandboxes/${id}/logs?${query}`))
      .json<{ logs: LogEntry[] }>()
      .logs.map(({ message }) => message)
  expect(await read('direction=backward&limit=2')).toEqual(['Sandbox killed', 'Sandbox resumed'])
  expect(await read('search=paused')).toEqual(['Sandbox paused'])
  expect(await read('search=PAUSED')).toEqual([])
  expect(await read('level=warn')).toEqual([])
  expect(await read(`cursor=${Date.now() + 10_000}`)).toEqual([])
  const foreign = { 'x-api-key': (await test.otherTeam()).key }
  expect((await test.request('GET', `/sandboxes/${id}/logs`, undefined, foreign)).status).toBe(404)
})

it('answers metrics of the own team only', async () => {
  const { id } = test.team
  expect((await test.request('GET', `/teams/${id}/metrics`)).json()).toEqual([])
  const max = await test.request('GET', `/teams/${id}/metrics/max?metric=concurrent_sandboxes`)
  expect(max.json()).toMatchObject({ value: 0 })
  expect((await test.request('GET', '/teams/other/metrics')).status).toBe(403)
  expect((await test.request('GET', `/teams/${id}/metrics?start=2&end=1`)).status).toBe(400)
  expect((await test.request('GET', `/teams/${id}/metrics/max?metric=x`)).status).toBe(400)
})
