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
  expect(await read('limit=1')).toEqual(['Sandbox killed'])
  expect(await read('direction=forward&limit=1')).toEqual(['Sandbox created'])
  expect(await read('search=paused')).toEqual(['Sandbox paused'])
  expect(await read('search=PAUSED')).toEqual([])
  expect(await read('level=warn')).toEqual([])
  expect(await read(`direction=forward&cursor=${Date.now() + 10_000}`)).toEqual([])
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

it('keeps logs and metrics over a restart, in both versions of the endpoint', async () => {
  const id = await createSandbox()
  await test.store.sandboxMetrics.insert([
    {
      sandboxId: id,
      at: Date.now(),
      isCoarse: 1,
      cpuCount: 2,
      cpuUsedPct: 1,
      memoryUsedBytes: 1,
      memoryTotalBytes: 1,
      memoryCacheBytes: 1,
      diskUsedBytes: 1,
      diskTotalBytes: 1,
    },
  ])
  test = await test.restart()
  expect((await test.request('GET', `/sandboxes/${id}/metrics`)).json()).toHaveLength(1)
  const v1 = (await test.request('GET', `/sandboxes/${id}/logs`)).json<{ logEntries: LogEntry[] }>()
  const v2 = (await test.request('GET', `/v2/sandboxes/${id}/logs`)).json<{ logs: LogEntry[] }>()
  expect(v1.logEntries).toEqual(v2.logs)
  expect(v2.logs.map(({ message }) => message)).toEqual(['Sandbox created'])
})

it('shows what the agent of a sandbox reports, under its own time, level and name', async () => {
  const id = await createSandbox()
  await expect.poll(() => test.host.collects).toBe(1)
  const line = (
    level: string,
    message: string,
    fields: Record<string, string> = {},
    seconds = 2_000_000_000,
  ) => ({
    at: { seconds: BigInt(seconds), nanos: 0 },
    level,
    message,
    fields,
  })
  test.host.reportLogs(id, [
    line('info', 'Process started', { logger: 'process', pid: '7' }, 1_999_999_999),
    line('loud', 'a NUL \0 and a level of its own', { logger: 'sandbox' }),
  ])
  test.host.reportLogs('iunknown', [line('info', 'of nobody')])
  const read = async (): Promise<LogEntry[]> =>
    (await test.request('GET', `/v2/sandboxes/${id}/logs?direction=forward&cursor=1900000000000`)).json<{
      logs: LogEntry[]
    }>().logs
  await expect.poll(read).toEqual([
    {
      timestamp: '2033-05-18T03:33:19.000Z',
      level: 'info',
      message: 'Process started',
      fields: { logger: 'process', service: 'envd', pid: '7' },
    },
    {
      timestamp: '2033-05-18T03:33:20.000Z',
      level: 'info',
      message: 'a NUL \ufffd and a level of its own',
      fields: { logger: 'envd', service: 'envd' },
    },
  ])
  test.host.cutStreams()
  await expect.poll(() => test.host.collects).toBe(2)
  await new Promise((resolve) => setImmediate(resolve))
  test.host.reportLogs(id, [line('error', 'after a broken stream')])
  await expect.poll(async () => (await read()).at(-1)?.message).toBe('after a broken stream')
})
