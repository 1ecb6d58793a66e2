import { afterEach, beforeEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

const adminToken = 'a-token-of-the-operator'
const admin = { 'x-api-key': '', 'x-admin-token': adminToken }
let test: TestApi
beforeEach(async () => {
  test = await startTestApi({ adminToken })
})
afterEach(() => test.close())

const createSandbox = async (headers: Record<string, string> = {}): Promise<number> =>
  (await test.request('POST', '/v2/sandboxes', { templateID: 'base' }, headers)).status

it('lets the operator act for the team of X-Team-ID', async () => {
  await createSandbox()
  const list = async (headers: Record<string, string>) =>
    test.request('GET', '/v2/sandboxes', undefined, headers)
  expect((await list({ ...admin, 'x-team-id': test.team.id })).json()).toHaveLength(1)
  expect((await list({ ...admin, 'x-team-id': `prj_${test.team.id}` })).json()).toHaveLength(1)
  const { team } = await test.otherTeam()
  expect((await list({ ...admin, 'x-team-id': team.id })).json()).toEqual([])
  for (const headers of [
    admin,
    { ...admin, 'x-team-id': 'nobody' },
    { 'x-admin-token': 'wrong', 'x-team-id': test.team.id },
  ]) {
    expect((await list(headers)).json()).toMatchObject({ code: 401 })
  }
})

it('counts and kills what a team runs', async () => {
  const { team, key } = await test.otherTeam()
  await createSandbox()
  await createSandbox()
  await createSandbox({ 'x-api-key': key })
  const counts = async () =>
    (await test.request('GET', '/admin/sandboxes/running-counts', undefined, admin)).json()
  expect(await counts()).toEqual({ [test.team.id]: 2, [team.id]: 1 })
  const killed = await test.request('POST', `/admin/teams/${test.team.id}/sandboxes/kill`, undefined, admin)
  expect(killed.json()).toEqual({ killedCount: 2, failedCount: 0 })
  expect(await counts()).toEqual({ [team.id]: 1 })
})

it('makes and deletes keys of teams, for good when that is answered', async () => {
  let syncs = 0
  test.store.sync = async () => {
    syncs += 1
  }
  const url = `/admin/teams/${test.team.id}/api-keys`
  const { id, key } = (await test.request('POST', url, { name: 'made' }, admin)).json<{
    id: string
    key: string
  }>()
  expect(await createSandbox({ 'x-api-key': key })).toBe(201)
  expect(syncs).toBe(1)
  expect((await test.request('DELETE', `${url}/${id}`, undefined, admin)).status).toBe(204)
  expect(syncs).toBe(2)
  expect((await test.request('DELETE', `${url}/${id}`, undefined, admin)).status).toBe(404)
  expect(await createSandbox({ 'x-api-key': key })).toBe(401)
})

it('is closed to keys of teams, to wrong tokens, and when no token is configured', async () => {
  const url = '/admin/sandboxes/running-counts'
  expect((await test.request('GET', url)).status).toBe(401)
  expect((await test.request('GET', url, undefined, { 'x-admin-token': 'wrong' })).status).toBe(401)
  const { key } = test
  await test.close()
  test = await startTestApi()
  expect(key).toBeDefined()
  expect((await test.request('GET', url, undefined, { 'x-admin-token': '' })).status).toBe(401)
  expect((await test.request('GET', url, undefined, { 'x-admin-token': 'undefined' })).status).toBe(401)
})
