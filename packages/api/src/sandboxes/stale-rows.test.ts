import { beforeEach, expect, it, onTestFinished } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

/** PostgreSQL answers over several connections: what was read may be over by the time it arrives. */

let test: TestApi
let id: string
beforeEach(async () => {
  test = await startTestApi()
  onTestFinished(() => test.close())
  id = (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).json<{ sandboxID: string }>()
    .sandboxID
})

/** Sends a request whose row arrives only after something else has been done. */
async function overtaken(send: () => Promise<{ status: number }>, other: () => Promise<unknown>) {
  const { sandboxes } = test.store
  const find = sandboxes.find.bind(sandboxes)
  const [read, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  sandboxes.find = async (teamId, sandboxId) => {
    sandboxes.find = find
    const row = await find(teamId, sandboxId)
    read.resolve()
    await go.promise
    return row
  }
  const answer = send()
  await read.promise
  await other()
  go.resolve()
  return (await answer).status
}

const post = (path: string, body?: object) => test.request('POST', `/sandboxes/${id}/${path}`, body)
const kill = () => test.request('DELETE', `/sandboxes/${id}`)

it.each([
  ['timeout', { timeout: 60 }],
  ['pause', {}],
  ['connect', { timeout: 60 }],
  ['fork', {}],
  ['snapshots', {}],
])('a %s that a kill overtook finds nothing, and leaves nothing', async (path, body) => {
  expect(await overtaken(() => post(path, body), kill)).toBe(404)
  await test.store.teams.update(test.team.id, { maxSandboxes: 1 })
  expect((await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).status).toBe(201)
})

it('a timeout that a pause overtook leaves it as it is', async () => {
  expect(
    await overtaken(
      () => post('timeout', { timeout: 60 }),
      () => post('pause'),
    ),
  ).toBe(409)
  expect((await post('connect', { timeout: 60 })).status).toBe(201)
})

it('a connect to a paused one that a kill overtook finds nothing', async () => {
  await post('pause')
  expect(await overtaken(() => post('connect', { timeout: 60 }), kill)).toBe(404)
  await test.store.teams.update(test.team.id, { maxSandboxes: 1 })
  expect((await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).status).toBe(201)
})

it('a connect to a paused one that another round overtook leaves its snapshot alone', async () => {
  await post('pause')
  const round = async (): Promise<void> => {
    await post('connect', { timeout: 60 })
    await post('pause')
  }
  expect(await overtaken(() => post('connect', { timeout: 60 }), round)).toBe(409)
  expect((await post('connect', { timeout: 60 })).status).toBe(201)
})
