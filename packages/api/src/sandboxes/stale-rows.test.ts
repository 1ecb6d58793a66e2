import { timestampMs } from '@bufbuild/protobuf/wkt'
import { beforeEach, expect, it, onTestFinished } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

/** PostgreSQL answers over several connections: what was read may be over by the time it arrives, or never arrive. */

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

/** The same work, failing the first times, as while the disk is full. */
function late<Args extends unknown[], Result>(work: (...args: Args) => Promise<Result>, times: number) {
  let left = times
  return async (...args: Args): Promise<Result> => {
    left -= 1
    if (left >= 0) throw new Error('the disk is full')
    return work(...args)
  }
}

/** Whether nothing but these counts for the team. */
async function hasPlaces(running: number): Promise<boolean> {
  await test.store.teams.update(test.team.id, { maxSandboxes: running + 1 })
  return (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).status === 201
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
  expect(await hasPlaces(0)).toBe(true)
})

it('a timeout that a kill overtook counts nothing, also where the second look at the row fails', async () => {
  const { sandboxes } = test.store
  sandboxes.findById = late(sandboxes.findById.bind(sandboxes), 1)
  expect(await overtaken(() => post('timeout', { timeout: 60 }), kill)).toBe(500)
  expect(await hasPlaces(0)).toBe(true)
})

it('of two timeouts at once the row has the one that the host took last', async () => {
  const { sandboxes } = test.store
  const setEnd = sandboxes.setEnd.bind(sandboxes)
  const [waits, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  sandboxes.setEnd = async (sandboxId, endAt) => {
    sandboxes.setEnd = setEnd
    waits.resolve()
    await go.promise
    await setEnd(sandboxId, endAt)
  }
  const first = post('timeout', { timeout: 600 })
  await waits.promise
  expect((await post('timeout', { timeout: 60 })).status).toBe(204)
  go.resolve()
  expect((await first).status).toBe(204)
  const end = timestampMs(test.host.sandboxes.get(id)!.endAt!)
  expect((await sandboxes.findById(id))?.endAt).toBe(end)
})

it('a kill whose row cannot be deleted can be repeated', async () => {
  const { sandboxes } = test.store
  sandboxes.delete = late(sandboxes.delete.bind(sandboxes), 1)
  expect((await kill()).status).toBe(500)
  // The report of its end may come first.
  expect([204, 404]).toContain((await kill()).status)
  expect(await sandboxes.findById(id)).toBeUndefined()
  expect(await hasPlaces(0)).toBe(true)
})

it.each(['a request', 'the end of its time'])(
  'what %s paused is found by the next connect, though the store took it late',
  async (reason) => {
    const { sandboxes } = test.store
    sandboxes.markPaused = late(sandboxes.markPaused.bind(sandboxes), 2)
    if (reason === 'a request') expect((await post('pause')).status).toBe(500)
    else {
      test.host.beginPause(id)
      test.host.pause(id)
    }
    const state = async () => (await test.store.sandboxes.findById(id))?.state
    await expect.poll(state, { timeout: 10_000 }).toBe('paused')
    expect((await post('connect', { timeout: 60 })).status).toBe(201)
    expect(await hasPlaces(1)).toBe(true)
  },
)

it('what was resumed is known to run, though the store took it late', async () => {
  await post('pause')
  const { sandboxes } = test.store
  sandboxes.update = late(sandboxes.update.bind(sandboxes), 1)
  expect((await post('connect', { timeout: 60 })).status).toBe(500)
  const state = async () => (await test.store.sandboxes.findById(id))?.state
  await expect.poll(state, { timeout: 10_000 }).toBe('running')
  expect((await post('pause')).status).toBe(204)
})

it('one whose host is away from this server counts nothing here, and nothing is done with it', async () => {
  await test.store.sandboxes.update(id, { hostId: 'another' })
  test = await test.restart()
  for (const path of ['timeout', 'pause', 'pause', 'snapshots', 'connect']) {
    expect((await post(path, path === 'pause' ? {} : { timeout: 60 })).status, path).toBe(503)
  }
  expect((await kill()).status).toBe(503)
  expect(await hasPlaces(0)).toBe(true)
})

it('a paused one whose host is away from this server is not killed, and waits for it', async () => {
  await post('pause')
  await test.store.sandboxes.update(id, { hostId: 'another' })
  expect((await kill()).status).toBe(503)
  expect(await hasPlaces(0)).toBe(true)
  await test.store.sandboxes.update(id, { hostId: test.host.id })
  await kill()
  expect((await test.request('GET', `/sandboxes/${id}`)).status).toBe(404)
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
  expect(await hasPlaces(0)).toBe(true)
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
