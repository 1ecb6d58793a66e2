import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createApiKey, createTeam } from '../operator.ts'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi

beforeEach(async () => {
  test = await startTestApi()
})
afterEach(() => test.close())

const createSandbox = async (body: object = { templateID: 'base' }): Promise<string> => {
  const answer = await test.request('POST', '/v2/sandboxes', body)
  expect(answer.status, answer.text).toBe(201)
  return answer.json<{ sandboxID: string }>().sandboxID
}

describe('create', () => {
  it('answers the smallest v2 body with tokens and 300 seconds', async () => {
    const before = Date.now()
    const answer = await test.request('POST', '/v2/sandboxes', { templateID: 'base' })
    expect(answer.status).toBe(201)
    expect(answer.json()).toEqual({
      templateID: test.templateId,
      sandboxID: expect.stringMatching(/^i[a-z0-9]{20}$/),
      clientID: expect.stringMatching(/^[a-z0-9]+$/),
      envdVersion: '0.6.13',
      alias: 'base',
      envdAccessToken: expect.stringMatching(/^[0-9a-f]{64}$/),
      trafficAccessToken: null,
      domain: null,
    })
    const [start] = test.host.starts
    expect(Number(start!.endAt!.seconds) * 1000).toBeGreaterThanOrEqual(before + 298_000)
    expect(start!.config).toMatchObject({
      envdAccessToken: answer.json<{ envdAccessToken: string }>().envdAccessToken,
      allowInternetAccess: true,
      templateId: test.templateId,
      resources: { cpuCount: 2, memoryMib: 512, diskMib: 1024 },
    })
  })

  it('gives v1 15 seconds, ignores secure: false and takes every field', async () => {
    const answer = await test.request('POST', '/sandboxes', {
      templateID: 'base',
      secure: false,
      metadata: { a: 'b' },
      envVars: { KEY: 'value' },
      allow_internet_access: false,
      autoPause: true,
      autoResume: { enabled: true },
      network: { allowPublicTraffic: false, denyOut: ['0.0.0.0/0'], allowOut: ['example.com'] },
      mcp: { browserbase: {} },
    })
    expect(answer.status, answer.text).toBe(201)
    const { sandboxID, trafficAccessToken } = answer.json<{ sandboxID: string; trafficAccessToken: string }>()
    expect(trafficAccessToken).toMatch(/^[0-9a-f]{64}$/)
    expect(test.host.starts[0]!.config).toMatchObject({
      envVars: { KEY: 'value' },
      metadata: { a: 'b' },
      allowInternetAccess: false,
      trafficAccessToken,
    })
    const detail = (await test.request('GET', `/sandboxes/${sandboxID}`)).json<{
      startedAt: string
      endAt: string
    }>()
    expect(detail).toMatchObject({
      state: 'running',
      metadata: { a: 'b' },
      allowInternetAccess: false,
      lifecycle: { autoResume: true, onTimeout: 'pause' },
      network: { allowOut: ['example.com'], denyOut: ['0.0.0.0/0'], allowPublicTraffic: false },
      cpuCount: 2,
      memoryMB: 512,
      diskSizeMB: 1024,
    })
    expect(Date.parse(detail.endAt) - Date.parse(detail.startedAt)).toBe(15_000)
  })

  it('keeps environment variables out of the database in clear', async () => {
    const id = await createSandbox({ templateID: 'base', envVars: { SECRET: 'hunter2hunter2' } })
    const row = await test.store.sandboxes.findById(id)
    expect(row!.sealedEnv).not.toBe('')
    expect(JSON.stringify(row)).not.toContain('hunter2')
  })

  it.each([
    ['no template', {}, /templateID/],
    ['a wrong type', { templateID: 'base', timeout: '5' }, /timeout.*integer/],
    ['timeout 0', { templateID: 'base', timeout: 0 }, /Timeout must be greater than 0/],
    ['a timeout over the limit', { templateID: 'base', timeout: 3601 }, /1 hours/],
    ['metadata that is no map of strings', { templateID: 'base', metadata: { a: 1 } }, /metadata/],
    [
      'bad network rules',
      { templateID: 'base', network: { allowOut: ['a.com'] } },
      /When specifying allowed domains/,
    ],
    ['files-only pause without pause', { templateID: 'base', autoPauseMemory: false }, /autoPause/],
    ['unknown volumes', { templateID: 'base', volumeMounts: [{ name: 'v', path: '/v' }] }, /[Vv]olumes/],
    ['a relative mount', { templateID: 'base', volumeMounts: [{ name: 'v', path: 'v' }] }, /absolute/],
    ['a malformed template', { templateID: 'a b' }, /template/],
    ['NUL in metadata', { templateID: 'base', metadata: { a: '\0' } }, /NUL/],
  ])('refuses %s with 400', async (_what, body, message) => {
    const answer = await test.request('POST', '/v2/sandboxes', body)
    expect(answer.status).toBe(400)
    expect(answer.json()).toEqual({ code: 400, message: expect.stringMatching(message) })
    expect(answer.headers['should-retry']).toBe('false')
    expect(test.host.calls).toEqual([])
  })

  it('refuses a body that is no JSON with 400', async () => {
    const answer = await test.api.app.inject({
      method: 'POST',
      url: '/sandboxes',
      headers: { 'x-api-key': test.key, 'content-type': 'application/json' },
      payload: '{',
    })
    expect(answer.statusCode).toBe(400)
    expect(answer.json()).toMatchObject({ code: 400, message: expect.stringContaining('JSON') })
  })

  it('answers 404 for an unknown template and an unknown tag', async () => {
    const messages = {
      nothing: "Template 'nothing' not found",
      'nobody/base': "Template 'nobody/base' not found",
      'base:nothing': "tag 'nothing' does not exist for template 'base'",
    }
    for (const [templateID, message] of Object.entries(messages)) {
      const answer = await test.request('POST', '/v2/sandboxes', { templateID })
      expect(answer.status).toBe(404)
      expect(answer.json()).toEqual({ code: 404, message })
    }
  })

  it('finds public templates by id, by namespace and with the tag default', async () => {
    for (const templateID of [
      test.templateId,
      'platform/base',
      'base:default',
      `${test.templateId}:default`,
    ]) {
      await createSandbox({ templateID })
    }
  })
})

describe('limits', () => {
  it('lets exactly the allowed number of concurrent creates through', async () => {
    await test.store.teams.update(test.team.id, { maxSandboxes: 3 })
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => test.request('POST', '/v2/sandboxes', { templateID: 'base' })),
    )
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(3)
    const refused = answers.find(({ status }) => status === 429)!
    expect(refused.json<{ message: string }>().message).toContain(
      'you have reached the maximum number of concurrent E2B sandboxes (3)',
    )
    expect(refused.headers['retry-after']).toMatch(/^\d+$/)
    expect(refused.headers['should-retry']).toBe('false')
  })

  it('frees a place when a sandbox is killed, ends by itself or fails to start', async () => {
    await test.store.teams.update(test.team.id, { maxSandboxes: 1 })
    const killed = await createSandbox()
    await test.request('DELETE', `/sandboxes/${killed}`)
    const ended = await createSandbox()
    test.host.end(ended)
    await expect.poll(() => test.store.sandboxes.findById(ended)).toBeUndefined()
    test.host.beforeStart = () => {
      throw new Error('broken')
    }
    expect((await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).status).toBe(500)
    test.host.beforeStart = () => {}
    await createSandbox()
  })

  it('answers 503 with error_code when no host has room', async () => {
    test.host.capacity = 0
    const answer = await test.request('POST', '/v2/sandboxes', { templateID: 'base' })
    expect(answer.status).toBe(503)
    expect(answer.json()).toMatchObject({ code: 503, error_code: 'sandbox_capacity_unavailable' })
    expect(answer.headers).toMatchObject({
      'should-retry': 'true',
      'retry-after': expect.stringMatching(/^\d+$/),
    })
  })

  it('stops what a failed start may have left and says whether to retry', async () => {
    test.host.beforeStart = () => {
      throw new Error('broken half way')
    }
    const answer = await test.request('POST', '/v2/sandboxes', { templateID: 'base' })
    expect(answer.json()).toMatchObject({ code: 500, error_code: 'sandbox_create_failed' })
    const [started, stopped] = test.host.calls
    expect(stopped).toBe(started!.replace('start', 'stop'))
  })

  it('answers 504 and removes a sandbox that does not start in time', async () => {
    test = await test.restart({ startTimeoutMs: 50 })
    test.host.beforeStart = () => new Promise((resolve) => setTimeout(resolve, 200))
    const answer = await test.request('POST', '/v2/sandboxes', { templateID: 'base' })
    expect(answer.status).toBe(504)
    expect(answer.headers['should-retry']).toBe('false')
    expect(test.host.calls.at(-1)).toMatch(/^stop/)
  })
})

describe('one sandbox', () => {
  it('is unknown to other teams in every route', async () => {
    const id = await createSandbox()
    const other = await createTeam(test.store, { name: 'Other' })
    const { key } = await createApiKey(test.store, other.id, 'k')
    const calls: [string, string, object?][] = [
      ['GET', `/sandboxes/${id}`],
      ['DELETE', `/sandboxes/${id}`],
      ['POST', `/sandboxes/${id}/timeout`, { timeout: 5 }],
      ['POST', `/sandboxes/${id}/connect`, { timeout: 5 }],
      ['POST', `/v2/sandboxes/${id}/connect`, {}],
      ['POST', `/sandboxes/${id}/refreshes`, {}],
    ]
    for (const [method, url, body] of calls) {
      const answer = await test.request(method, url, body, { 'x-api-key': key })
      expect(answer.status, url).toBe(404)
      expect(answer.json()).toEqual({
        code: 404,
        message: `Sandbox "${id}" doesn't exist or you don't have access to it`,
      })
    }
    expect((await test.request('GET', `/sandboxes/${id}`)).status).toBe(200)
  })

  it('takes the legacy id with a client id and refuses malformed ids', async () => {
    const id = await createSandbox()
    expect((await test.request('GET', `/sandboxes/${id}-client`)).status).toBe(200)
    for (const bad of [`${id}-a-b`, 'I_x', 'a%2Fb']) {
      const answer = await test.request('GET', `/sandboxes/${bad}`)
      expect(answer.json()).toEqual({ code: 400, message: 'Invalid sandbox ID' })
    }
  })

  it('is killed once: then 404 everywhere', async () => {
    const id = await createSandbox()
    const killed = await test.request('DELETE', `/sandboxes/${id}`)
    expect([killed.status, killed.text]).toEqual([204, ''])
    expect(test.host.sandboxes.size).toBe(0)
    for (const method of ['GET', 'DELETE'])
      expect((await test.request(method, `/sandboxes/${id}`)).status).toBe(404)
  })

  it('is shown as gone while it is being killed', async () => {
    const id = await createSandbox()
    const { promise, resolve } = Promise.withResolvers<void>()
    test.host.beforeStop = () => promise
    const kill = test.request('DELETE', `/sandboxes/${id}`)
    await expect.poll(() => test.host.calls.at(-1)).toBe(`stop ${id}`)
    expect((await test.request('GET', `/sandboxes/${id}`)).status).toBe(404)
    expect((await test.request('DELETE', `/sandboxes/${id}`)).status).toBe(404)
    expect((await test.request('GET', '/v2/sandboxes')).json()).toEqual([])
    expect((await test.request('POST', `/v2/sandboxes/${id}/connect`, {})).status).toBe(409)
    resolve()
    expect((await kill).status).toBe(204)
  })

  it('stays when its host cannot be reached for the kill', async () => {
    const id = await createSandbox()
    test.host.beforeStop = () => {
      throw new Error('unreachable')
    }
    const answer = await test.request('DELETE', `/sandboxes/${id}`)
    expect([answer.status, answer.headers['should-retry']]).toEqual([503, 'true'])
    expect((await test.request('GET', `/sandboxes/${id}`)).status).toBe(200)
  })

  it('gets its end moved by timeout, only later by connect and refreshes, never past the longest life', async () => {
    const id = await createSandbox({ templateID: 'base', timeout: 100 })
    const lifeMs = async (): Promise<number> => {
      const detail = (await test.request('GET', `/sandboxes/${id}`)).json<{
        startedAt: string
        endAt: string
      }>()
      return Date.parse(detail.endAt) - Date.parse(detail.startedAt)
    }
    const seconds = async (): Promise<number> => Math.floor((await lifeMs()) / 1000)
    expect((await test.request('POST', `/sandboxes/${id}/timeout`, { timeout: 50 })).status).toBe(204)
    expect(await seconds()).toBe(50)
    const connected = await test.request('POST', `/sandboxes/${id}/connect`, { timeout: 10 })
    expect(connected.status).toBe(200)
    expect(connected.json()).toMatchObject({ sandboxID: id, envdAccessToken: expect.any(String) })
    expect(await seconds()).toBe(50)
    expect((await test.request('POST', `/sandboxes/${id}/connect`, { timeout: 0 })).status).toBe(200)
    expect(await seconds()).toBe(50)
    expect((await test.request('POST', `/v2/sandboxes/${id}/connect`)).status).toBe(200)
    expect(await seconds()).toBe(300)
    expect((await test.request('POST', `/sandboxes/${id}/refreshes`, { duration: 400 })).status).toBe(204)
    expect(await seconds()).toBe(400)
    expect((await test.request('POST', `/sandboxes/${id}/timeout`, { timeout: 100_000 })).status).toBe(204)
    expect(await lifeMs()).toBe(3_600_000)
    expect((await test.request('POST', `/sandboxes/${id}/connect`, {})).status).toBe(400)
    expect((await test.request('POST', `/sandboxes/${id}/timeout`, { timeout: -1 })).status).toBe(400)
    expect((await test.request('POST', `/sandboxes/${id}/refreshes`, { duration: 3601 })).status).toBe(400)
  })

  it('is refreshed for 15 seconds at least', async () => {
    const id = await createSandbox({ templateID: 'base', timeout: 1 })
    await test.request('POST', `/sandboxes/${id}/refreshes`, { duration: 2 })
    const { startedAt, endAt } = (await test.request('GET', `/sandboxes/${id}`)).json()
    expect(Date.parse(String(endAt)) - Date.parse(String(startedAt))).toBeGreaterThanOrEqual(15_000)
  })

  it('is over at once with timeout 0, and at its end', async () => {
    const id = await createSandbox()
    await test.request('POST', `/sandboxes/${id}/timeout`, { timeout: 0 })
    await expect.poll(async () => (await test.request('GET', `/sandboxes/${id}`)).status).toBe(404)
  })
})
