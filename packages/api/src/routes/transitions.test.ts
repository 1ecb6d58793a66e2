import { Code, ConnectError } from '@connectrpc/connect'
import { databaseKinds, type TestDatabases } from '@sandbox/store/testing/databases'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

describe.each(databaseKinds)('pause and resume on %s', (_name, start) => {
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

  const createSandbox = async (body: object = {}): Promise<string> =>
    (await test.request('POST', '/v2/sandboxes', { templateID: 'base', ...body })).json<{
      sandboxID: string
    }>().sandboxID
  const post = (id: string, path: string, body?: object) =>
    test.request('POST', `/sandboxes/${id}/${path}`, body)
  const detail = async (id: string) => (await test.request('GET', `/sandboxes/${id}`)).json()

  /** A pause that has begun, and ends after `goOn`. */
  const holdPause = async (id: string) => {
    const { promise, resolve: goOn } = Promise.withResolvers<void>()
    test.host.beforeCapture = () => promise
    const pausing = post(id, 'pause')
    await expect.poll(() => test.host.pauses.length).toBe(1)
    return { pausing, goOn }
  }

  it('pauses with memory by default, shows it, and resumes by connect with everything but its times', async () => {
    const body = { metadata: { a: 'b' }, envVars: { KEY: 'value' }, network: { allowPublicTraffic: false } }
    const id = await createSandbox(body)
    const before = await detail(id)
    const first = test.host.starts[0]!
    const pausedAtMs = Date.now()
    const paused = await post(id, 'pause')
    expect([paused.status, paused.text]).toEqual([204, ''])
    expect(test.host.pauses[0]).toMatchObject({ memory: true, requireHealthyGuest: false })
    const shown = await detail(id)
    expect(shown).toMatchObject({ state: 'paused', pauseMode: 'full', domain: null, metadata: { a: 'b' } })
    const endedAtMs = Date.parse(String(shown.endAt))
    expect(endedAtMs).toBeGreaterThanOrEqual(pausedAtMs)
    expect(endedAtMs).toBeLessThanOrEqual(Date.now())
    expect(shown).not.toHaveProperty('envdUnresponsiveAtPause')

    const connected = await test.request('POST', `/v2/sandboxes/${id}/connect`, {})
    expect(connected.status).toBe(201)
    expect(connected.json()).toMatchObject({
      sandboxID: id,
      envdAccessToken: before.envdAccessToken,
      trafficAccessToken: expect.any(String),
    })
    const resumed = await detail(id)
    expect(resumed).toMatchObject({ state: 'running', metadata: { a: 'b' }, network: body.network })
    expect(resumed).not.toHaveProperty('pauseMode')
    const started = Date.parse(String(resumed.startedAt))
    expect(started).toBeGreaterThan(Date.parse(String(before.startedAt)))
    expect(Date.parse(String(resumed.endAt)) - started).toBe(300_000)
    const second = test.host.starts[1]!
    expect(second).toMatchObject({
      sandboxId: id,
      memory: true,
      consumeSnapshot: true,
      config: first.config!,
    })
    expect(second.snapshotId).toMatch(/^pause-/)
    expect((await test.request('POST', `/v2/sandboxes/${id}/connect`)).status).toBe(200)
  })

  it('keeps files only on request and takes memory: false at the resume', async () => {
    const id = await createSandbox()
    await post(id, 'pause', { memory: false })
    expect(await detail(id)).toMatchObject({ pauseMode: 'filesystem' })
    expect((await post(id, 'connect', { timeout: 60 })).status).toBe(201)
    await post(id, 'pause', {})
    expect((await post(id, 'connect', { timeout: 60, memory: false })).status).toBe(201)
    expect(test.host.starts.at(-1)).toMatchObject({ memory: false })
    // Running: nothing to do.
    expect((await post(id, 'connect', { timeout: 60, memory: false })).status).toBe(200)
  })

  it('marks a sandbox whose agent did not answer: only a cold boot brings it back', async () => {
    const id = await createSandbox()
    test.host.agentsAnswer = false
    for (const body of [{ requireHealthyGuest: true }, { memory: false }]) {
      const refused = await post(id, 'pause', body)
      expect(refused.status).toBe(503)
      expect(refused.headers).toMatchObject({ 'should-retry': 'true', 'retry-after': '1' })
      expect(await detail(id)).toMatchObject({ state: 'running' })
    }
    expect((await post(id, 'pause')).status).toBe(204)
    expect(await detail(id)).toMatchObject({ envdUnresponsiveAtPause: true, pauseMode: 'full' })
    for (const path of ['connect', 'resume']) {
      const refused = await post(id, path, { timeout: 60 })
      expect(refused.status).toBe(409)
      expect(refused.json()).toMatchObject({
        code: 409,
        error_code: 'sandbox_snapshot_guest_agent_unresponsive',
      })
    }
    expect((await post(id, 'connect', { timeout: 60, memory: false })).status).toBe(201)
    expect(await detail(id)).not.toHaveProperty('envdUnresponsiveAtPause')
  })

  it('resumes by the legacy call for 15 seconds', async () => {
    const id = await createSandbox()
    expect((await post(id, 'resume')).status).toBe(409)
    await post(id, 'pause')
    expect((await post(id, 'resume')).status).toBe(201)
    const { startedAt, endAt } = await detail(id)
    expect(Date.parse(String(endAt)) - Date.parse(String(startedAt))).toBe(15_000)
    expect((await post('inothing', 'resume')).status).toBe(404)
  })

  it('answers 404 and 409 where a pause makes no sense', async () => {
    const missing = await post('inothing', 'pause')
    expect(missing.json()).toEqual({
      code: 404,
      message: `Sandbox "inothing" doesn't exist or you don't have access to it`,
    })
    const id = await createSandbox()
    await post(id, 'pause')
    expect((await post(id, 'pause')).json()).toMatchObject({ code: 409 })
    expect((await post(id, 'timeout', { timeout: 5 })).status).toBe(404)
  })

  it('while pausing: shown as paused, a second pause and a timeout conflict, a connect waits', async () => {
    const id = await createSandbox()
    const { pausing, goOn } = await holdPause(id)
    expect(await detail(id)).toMatchObject({ state: 'paused' })
    expect((await post(id, 'pause')).status).toBe(409)
    expect((await post(id, 'timeout', { timeout: 5 })).status).toBe(409)
    const connecting = test.request('POST', `/v2/sandboxes/${id}/connect`)
    goOn()
    expect((await pausing).status).toBe(204)
    expect((await connecting).status).toBe(201)
    expect(await detail(id)).toMatchObject({ state: 'running' })
  })

  it('a connect that read the row before a pause ended resumes', async () => {
    const id = await createSandbox()
    const { pausing, goOn } = await holdPause(id)
    const { sandboxes } = test.store
    const find = sandboxes.find.bind(sandboxes)
    sandboxes.find = async (...of) => {
      sandboxes.find = find
      const row = await find(...of)
      goOn()
      await pausing
      return row
    }
    expect((await test.request('POST', `/v2/sandboxes/${id}/connect`)).status).toBe(201)
    expect(await detail(id)).toMatchObject({ state: 'running' })
  })

  it('kills paused ones, and those being paused or resumed', async () => {
    const paused = await createSandbox()
    await post(paused, 'pause')
    expect((await test.request('DELETE', `/sandboxes/${paused}`)).status).toBe(204)
    expect((await test.request('DELETE', `/sandboxes/${paused}`)).status).toBe(404)
    expect((await post(paused, 'connect', { timeout: 60 })).status).toBe(404)

    const pausing = await createSandbox()
    const { promise, resolve } = Promise.withResolvers<void>()
    test.host.beforeCapture = () => promise
    const pause = post(pausing, 'pause')
    await expect.poll(() => test.host.pauses.length).toBe(2)
    const kill = test.request('DELETE', `/sandboxes/${pausing}`)
    await expect.poll(async () => (await test.request('GET', `/sandboxes/${pausing}`)).status).toBe(404)
    resolve()
    expect((await kill).status).toBe(204)
    expect((await pause).status).toBe(404)

    test.host.beforeCapture = () => {}
    const resuming = await createSandbox()
    await post(resuming, 'pause')
    const gate = Promise.withResolvers<void>()
    test.host.beforeStart = () => gate.promise
    const starts = test.host.starts.length
    const connect = post(resuming, 'connect', { timeout: 60 })
    await expect.poll(() => test.host.starts.length).toBe(starts + 1)
    const killResuming = test.request('DELETE', `/sandboxes/${resuming}`)
    await expect.poll(async () => (await test.request('GET', `/sandboxes/${resuming}`)).status).toBe(404)
    gate.resolve()
    expect((await killResuming).status).toBe(204)
    expect((await connect).status).toBe(404)
    expect([test.host.sandboxes.size, test.host.paused.size]).toEqual([0, 0])
    expect(await test.store.sandboxes.listOnHost(test.host.id)).toEqual([])
  })

  it('refuses to resume for no time, and to change what a paused one may reach', async () => {
    const id = await createSandbox()
    await post(id, 'pause')
    expect((await post(id, 'connect', { timeout: 0 })).status).toBe(400)
    const update = await test.request('PUT', `/sandboxes/${id}/network`, { denyOut: ['1.2.3.4'] })
    expect(update.json()).toMatchObject({ code: 404, message: expect.stringContaining('is paused') })
    expect(await detail(id)).toMatchObject({ state: 'paused' })
  })

  it('two connects at once resume once', async () => {
    const id = await createSandbox()
    await post(id, 'pause')
    const answers = await Promise.all([1, 2, 3].map(() => post(id, 'connect', { timeout: 60 })))
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 201])
    expect(test.host.starts).toHaveLength(2)
  })

  it('stays paused when the host cannot resume it, and counts against the limit only while it runs', async () => {
    const id = await createSandbox()
    await post(id, 'pause')
    test.host.beforeStart = () => {
      throw new ConnectError('full', Code.ResourceExhausted)
    }
    const refused = await post(id, 'connect', { timeout: 60 })
    expect([refused.status, refused.headers['should-retry']]).toEqual([503, 'true'])
    expect(await detail(id)).toMatchObject({ state: 'paused' })
    test.host.beforeStart = () => {}
    await test.store.teams.update(test.team.id, { maxSandboxes: 1 })
    const other = await createSandbox()
    const limited = await post(id, 'connect', { timeout: 60 })
    expect(limited.json()).toMatchObject({
      code: 429,
      message: expect.stringMatching(
        /^you have reached the maximum number of concurrent E2B sandboxes \(1\)/,
      ),
    })
    await test.request('DELETE', `/sandboxes/${other}`)
    expect((await post(id, 'connect', { timeout: 60 })).status).toBe(201)
  })

  it('pauses at the end of the timeout, also again after a resume', async () => {
    const id = await createSandbox({ autoPause: true, timeout: 1 })
    await expect.poll(async () => (await detail(id)).state, { timeout: 3_000 }).toBe('paused')
    expect((await post(id, 'connect', { timeout: 1 })).status).toBe(201)
    await expect.poll(async () => (await detail(id)).state, { timeout: 3_000 }).toBe('paused')
    const filesOnly = await createSandbox({ autoPause: true, autoPauseMemory: false, timeout: 1 })
    await expect.poll(async () => (await detail(filesOnly)).pauseMode, { timeout: 3_000 }).toBe('filesystem')
    const killed = await createSandbox({ timeout: 1 })
    await expect.poll(async () => (await detail(killed)).code, { timeout: 3_000 }).toBe(404)
  })

  it.each([
    { autoPauseMemory: false },
    { autoPause: true, autoPauseMemory: false, autoResume: { enabled: true } },
  ])('refuses %j', async (body) => {
    expect((await test.request('POST', '/v2/sandboxes', { templateID: 'base', ...body })).status).toBe(400)
  })

  it('lists running and paused together, filters by state, pages over both', async () => {
    const ids = []
    for (let made = 0; made < 4; made += 1) ids.push(await createSandbox({ metadata: { n: String(made) } }))
    await post(ids[1]!, 'pause')
    await post(ids[2]!, 'pause')
    const list = async (query: string) => {
      const answer = await test.request('GET', `/v2/sandboxes?${query}`)
      const found = answer.json<{ sandboxID: string; state: string }[]>()
      return { ids: found.map(({ sandboxID }) => sandboxID), states: found.map(({ state }) => state), answer }
    }
    const all = await list('order=asc')
    expect(all.ids).toEqual(ids)
    expect(all.states).toEqual(['running', 'paused', 'paused', 'running'])
    expect(all.answer.headers['x-total-running']).toBe('2')
    const paused = await list('state=paused')
    expect(paused.ids).toEqual([ids[2], ids[1]])
    expect(paused.answer.headers).not.toHaveProperty('x-total-running')
    const pages: string[] = []
    for (let token = ''; ; ) {
      const page = await list(`state=running,paused&limit=1${token && `&nextToken=${token}`}`)
      pages.push(...page.ids)
      token = String(page.answer.headers['x-next-token'] ?? '')
      if (!token) break
    }
    expect(pages).toEqual([...ids].reverse())
  })

  it('keeps paused sandboxes over restarts and agrees with the host about what happened meanwhile', async () => {
    const kept = await createSandbox()
    const pausedAway = await createSandbox()
    const resumedAway = await createSandbox()
    const lost = await createSandbox()
    for (const id of [kept, resumedAway, lost]) await post(id, 'pause')
    await test.api.close()
    test.host.pause(pausedAway, false)
    const { snapshotId } = test.host.paused.get(resumedAway)!
    test.host.paused.delete(resumedAway)
    test.host.plant(resumedAway, Date.now() + 60_000, snapshotId)
    test.host.paused.delete(lost)
    test = await test.restart()
    expect(await detail(kept)).toMatchObject({ state: 'paused', pauseMode: 'full' })
    expect(await detail(pausedAway)).toMatchObject({ state: 'paused', pauseMode: 'filesystem' })
    expect(await detail(resumedAway)).toMatchObject({ state: 'running' })
    expect(await detail(lost)).toMatchObject({ code: 404 })
    expect((await post(kept, 'connect', { timeout: 60 })).status).toBe(201)
  })

  it('never lets another team see or touch a paused sandbox', async () => {
    const id = await createSandbox()
    await post(id, 'pause')
    const other = await test.otherTeam()
    const calls: [string, string, object?][] = [
      ['GET', `/sandboxes/${id}`],
      ['DELETE', `/sandboxes/${id}`],
      ['POST', `/sandboxes/${id}/pause`],
      ['POST', `/sandboxes/${id}/resume`],
      ['POST', `/sandboxes/${id}/connect`, { timeout: 1 }],
      ['POST', `/v2/sandboxes/${id}/connect`],
    ]
    for (const [method, url, body] of calls) {
      expect((await test.request(method, url, body, { 'x-api-key': other.key })).status).toBe(404)
    }
    expect(await detail(id)).toMatchObject({ state: 'paused' })
  })
})
