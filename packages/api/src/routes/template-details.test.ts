import { afterAll, beforeAll, expect, it } from 'vitest'
import { registerTemplate } from '../operator.ts'
import { RESOURCES, startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi
let templateId: string
let buildIds: string[]
let stranger: Record<string, string>

beforeAll(async () => {
  test = await startTestApi()
  const template = {
    teamId: test.team.id,
    name: 'mine',
    envdVersion: '0.6.13',
    resources: RESOURCES,
    isPublic: false,
  }
  const made: { templateId: string; buildId: string }[] = []
  for (const snapshotId of ['s1', 's2', 's3']) {
    made.push(await registerTemplate(test.store, { ...template, snapshotId }))
  }
  templateId = made[0]!.templateId
  buildIds = made.map(({ buildId }) => buildId)
  stranger = { 'x-api-key': (await test.otherTeam()).key }
})
afterAll(() => test.close())

const get = async (url: string, headers?: Record<string, string>) =>
  test.request('GET', url, undefined, headers)

it('shows a template of the team with its builds in pages, by id and by name', async () => {
  const whole = (await get(`/templates/${templateId}`)).json<{ builds: { buildID: string }[] }>()
  expect(whole).toMatchObject({ templateID: templateId, buildCount: 3, names: ['test/mine'], public: false })
  expect(whole.builds.map(({ buildID }) => buildID).sort()).toEqual([...buildIds].sort())
  expect(whole.builds[0]).toMatchObject({
    status: 'ready',
    cpuCount: 2,
    memoryMB: 512,
    envdVersion: '0.6.13',
  })
  const first = await get('/templates/mine?limit=2')
  const token = String(first.headers['x-next-token'])
  const second = await get(`/templates/mine?limit=2&nextToken=${token}`)
  expect(second.headers['x-next-token']).toBeUndefined()
  const pages = [first, second].flatMap((page) => page.json<typeof whole>().builds)
  expect(pages).toEqual(whole.builds)
  expect((await get(`/templates/${templateId}`, stranger)).status).toBe(403)
  expect((await get(`/templates/${test.templateId}`, stranger)).status).toBe(403)
  expect((await get('/templates/nothing')).json()).toMatchObject({ code: 404 })
})

it('lets its owner alone publish it and take it back', async () => {
  const patch = async (url: string, body: object, headers?: Record<string, string>) =>
    test.request('PATCH', url, body, headers)
  const published = await patch(`/v2/templates/${templateId}`, { public: true })
  expect([published.status, published.json()]).toEqual([200, { names: ['test/mine'] }])
  expect((await get('/templates/aliases/test%2Fmine', stranger)).json()).toEqual({
    templateID: templateId,
    public: true,
  })
  expect((await patch(`/v2/templates/${templateId}`, { public: false }, stranger)).status).toBe(403)
  expect((await patch('/templates/mine', { public: false })).status).toBe(200)
  expect((await get('/templates/aliases/test%2Fmine', stranger)).status).toBe(403)
  expect((await patch(`/v2/templates/${templateId}`, { public: 'yes' })).status).toBe(400)
})

it('lets its owner choose an engine that a host has, for sandboxes started afterwards', async () => {
  const patch = async (isolation: string, template = 'mine', headers?: Record<string, string>) =>
    test.request('PATCH', `/templates/${template}`, { isolation }, headers)
  const shown = async () => (await get('/templates/mine')).json().isolation
  const started = async () => {
    await test.request('POST', '/v2/sandboxes', { templateID: 'mine' })
    return test.host.starts.at(-1)?.isolation
  }
  expect([await shown(), await started()]).toEqual(['auto', ''])
  expect((await patch('container')).status).toBe(200)
  expect([await shown(), await started()]).toEqual(['container', 'container'])
  const listed = (await get('/templates')).json<{ templateID: string; isolation: string }[]>()
  expect(listed.find(({ templateID }) => templateID === templateId)?.isolation).toBe('container')
  const refused = await patch('microvm')
  expect([refused.status, refused.json().message]).toEqual([
    400,
    "No host can run sandboxes on 'microvm', there is container. microvm: not installed. " +
      "Install it with 'npm run engine -- install firecracker', then start the server anew.",
  ])
  expect((await patch('jail')).status).toBe(400)
  expect((await patch('container', templateId, stranger)).status).toBe(403)
  expect([await shown(), await started()]).toEqual(['container', 'container'])
  expect((await patch('auto')).status).toBe(200)
  expect([await shown(), await started()]).toEqual(['auto', 'auto'])
})

it('refuses another engine for a snapshot, and starts it without asking for one', async () => {
  const sandbox = (await test.request('POST', '/v2/sandboxes', { templateID: 'mine' })).json()
  const snapshot = await test.request('POST', `/sandboxes/${sandbox.sandboxID}/snapshots`, {})
  const { snapshotID } = snapshot.json<{ snapshotID: string }>()
  const id = snapshotID.split(':')[0]!
  expect((await test.request('PATCH', `/templates/${id}`, { isolation: 'container' })).status).toBe(400)
  await test.request('POST', '/v2/sandboxes', { templateID: snapshotID })
  expect(test.host.starts.at(-1)).toMatchObject({ isolation: '' })
})

it('says at the start what is missing when the engine of a template is gone', async () => {
  await test.request('PATCH', '/templates/mine', { isolation: 'container' })
  const { engines } = test.host
  test.host.engines = [{ name: 'gvisor', usable: true }]
  const restarted = await test.restart()
  const answer = await restarted.request('POST', '/v2/sandboxes', { templateID: 'mine' })
  expect([answer.status, answer.json()]).toMatchObject([
    500,
    {
      error_code: 'sandbox_create_refused',
      message: expect.stringContaining("'container', there is gvisor"),
    },
  ])
  test.host.engines = engines
  test = await restarted.restart()
})

it('tells how a build went', async () => {
  const answer = await get(`/templates/${templateId}/builds/${buildIds[0]}/status?logsOffset=0&limit=100`)
  expect(answer.json()).toEqual({
    templateID: templateId,
    buildID: buildIds[0],
    status: 'ready',
    logs: [],
    logEntries: [],
  })
  expect((await get(`/templates/${templateId}/builds/nothing/status`)).status).toBe(400)
})

it('shows what is kept of the lines of a build that failed, forwards and backwards', async () => {
  const line = (second: number, level: string) => ({
    ...{ timestamp: new Date(second * 1_000).toISOString(), level },
    message: `line ${second}`,
    step: '1',
  })
  const logEntries = [line(1, 'info'), line(2, 'debug'), line(3, 'error')]
  const reason = JSON.stringify({ message: 'failed', step: '1', logEntries })
  const logs = async (query = '') => {
    const answer = await get(`/templates/mine/builds/${buildIds[1]}/logs${query}`)
    return answer.json<{ logs: { message: string }[] }>().logs.map(({ message }) => message)
  }
  expect(await logs()).toEqual([])
  await test.store.templateBuilds.update(buildIds[1]!, { reason })
  expect(await logs()).toEqual(['line 1', 'line 2', 'line 3'])
  expect(await logs('?level=info&direction=backward')).toEqual(['line 3', 'line 1'])
  expect(await logs('?cursor=2000&limit=1')).toEqual(['line 2'])
  expect(await logs('?cursor=2000&direction=backward')).toEqual(['line 2', 'line 1'])
  expect((await get('/templates/mine/builds/nothing/logs')).status).toBe(404)
  expect((await get(`/templates/${templateId}/builds/${buildIds[1]}/logs`, stranger)).status).toBe(403)
})

it('counts, finds, groups and pages tags', async () => {
  const tags = ['v1', 'v2', 'stable']
  expect((await test.request('POST', '/templates/tags', { target: 'mine', tags })).status).toBe(201)
  const of = async (path: string) => (await get(`/templates/mine/tags/${path}`)).json()
  expect(await of('count')).toEqual({ total: 4 })
  expect(await of('exists?tag=V1')).toEqual({ exists: true, normalizedTag: 'v1' })
  expect(await of('exists?tag=v9')).toEqual({ exists: false, normalizedTag: 'v9' })
  const groups = await of('groups?sort=name_desc&tagsLimit=2')
  expect(groups).toMatchObject({
    tags: [
      {
        tag: 'v2',
        assignments: [{ buildId: buildIds[2], buildFinishedAt: expect.any(String) }],
        hasMore: false,
      },
      { tag: 'v1' },
    ],
    nextCursor: 'v1',
  })
  expect(await of('groups?sort=name_desc&tagsLimit=2&tagsCursor=v1')).toMatchObject({
    tags: [{ tag: 'stable' }, { tag: 'default' }],
    nextCursor: null,
  })
  expect(await of('groups?tagsCursor=gone')).toMatchObject({ code: 400 })
  expect(await of('groups?search=stab')).toMatchObject({ tags: [{ tag: 'stable' }] })
  expect(await of('v1/assignments')).toMatchObject({ data: [{ buildId: buildIds[2] }], nextCursor: null })
  expect(await of('v9/assignments')).toEqual({ data: [], nextCursor: null })
  expect((await get('/templates/nothing/tags/count')).status).toBe(404)
})
