import { afterAll, beforeAll, expect, it } from 'vitest'
import { createApiKey, createTeam, registerTemplate } from '../operator.ts'
import { RESOURCES, startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi
let privateId: string

beforeAll(async () => {
  test = await startTestApi()
  const template = {
    teamId: test.team.id,
    name: 'mine',
    snapshotId: 's2',
    envdVersion: '0.6.13',
    resources: RESOURCES,
    isPublic: false,
  }
  privateId = (await registerTemplate(test.store, template)).templateId
})
afterAll(() => test.close())

it('finds the platform template for every team, by name and with its namespace', async () => {
  for (const alias of ['base', 'platform%2Fbase', 'platform%2Fbase%3Adefault', test.templateId]) {
    const answer = await test.request('GET', `/templates/aliases/${alias}`)
    expect(answer.status, alias).toBe(200)
    expect(answer.json()).toEqual({ templateID: test.templateId, public: true })
  }
  expect((await test.request('GET', '/templates/aliases/nothing')).status).toBe(404)
})

it('tells whether a name has a tag', async () => {
  const answer = await test.request('GET', '/templates/aliases/mine%3Aold')
  expect(answer.json()).toEqual({ code: 404, message: "tag 'old' does not exist for template 'mine'" })
  await test.request('POST', '/templates/tags', { target: 'mine', tags: ['old'] })
  for (const alias of ['mine%3Aold', 'test%2Fmine%3Aold', `${privateId}%3Aold`, 'mine%3Adefault']) {
    expect((await test.request('GET', `/templates/aliases/${alias}`)).status, alias).toBe(200)
  }
})

it('answers 403 for the private template of another team, also to a create', async () => {
  const other = await createTeam(test.store, { name: 'Stranger' })
  const { key } = await createApiKey(test.store, other.id, 'k')
  const headers = { 'x-api-key': key }
  expect((await test.request('GET', '/templates/aliases/test%2Fmine', undefined, headers)).status).toBe(403)
  expect((await test.request('GET', '/templates/aliases/mine', undefined, headers)).status).toBe(404)
  const answer = await test.request('POST', '/v2/sandboxes', { templateID: privateId }, headers)
  expect([answer.status, answer.json().code]).toEqual([403, 403])
})

it('lists the templates of the team, and those of the platform', async () => {
  for (const path of ['/templates', '/v2/templates', `/templates?teamID=${test.team.id}`]) {
    const [own, ...others] = (await test.request('GET', path)).json<object[]>()
    expect(others).toEqual([])
    expect(own).toMatchObject({
      templateID: privateId,
      public: false,
      aliases: ['mine'],
      names: ['test/mine'],
      buildStatus: 'ready',
      buildCount: 1,
      memoryMB: 512,
      createdBy: null,
      lastSpawnedAt: null,
    })
  }
  const defaults = (await test.request('GET', '/default-templates')).json<{ templateID: string }[]>()
  expect(defaults.map((template) => template.templateID)).toEqual([test.templateId])
})

it('starts from the newest registered snapshot at once and counts it', async () => {
  const registration = {
    teamId: test.team.id,
    name: 'mine',
    snapshotId: 's3',
    envdVersion: '0.6.13',
    resources: RESOURCES,
    isPublic: false,
  }
  await test.request('POST', '/v2/sandboxes', { templateID: 'mine' })
  expect(test.host.starts.at(-1)!.snapshotId).toBe('s2')
  const { buildId } = await registerTemplate(test.store, registration)
  await test.request('POST', '/v2/sandboxes', { templateID: 'mine' })
  expect(test.host.starts.at(-1)!.snapshotId).toBe('s3')
  expect((await registerTemplate(test.store, registration)).buildId).toBe(buildId)
  await expect.poll(async () => (await test.store.templates.find(privateId))?.spawnCount).toBe(2)
})
