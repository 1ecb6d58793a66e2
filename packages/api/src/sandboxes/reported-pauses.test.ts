import { afterEach, beforeEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

/** What is seen of a sandbox while its host pauses it at the end of its time. */

let test: TestApi
let id: string

beforeEach(async () => {
  test = await startTestApi()
  const body = { templateID: 'base', timeout: 60, autoPause: true }
  id = (await test.request('POST', '/v2/sandboxes', body)).json<{ sandboxID: string }>().sandboxID
})
afterEach(() => test.close())

const state = async (): Promise<unknown> => (await test.request('GET', `/sandboxes/${id}`)).json().state
const connect = () => test.request('POST', `/v2/sandboxes/${id}/connect`, { timeout: 120 })
const isWaiting = async (work: Promise<unknown>): Promise<boolean> => {
  const wait = new Promise<'waiting'>((resolve) => setTimeout(resolve, 100, 'waiting'))
  return (await Promise.race([work, wait])) === 'waiting'
}

it('is pausing as after a request: shown as paused, no other change is taken, a connect waits and resumes', async () => {
  test.host.beginPause(id)
  await expect.poll(state).toBe('paused')
  const list = (await test.request('GET', '/v2/sandboxes?state=paused')).json<{ sandboxID: string }[]>()
  expect(list.map(({ sandboxID }) => sandboxID)).toEqual([id])
  expect((await test.request('POST', `/sandboxes/${id}/pause`)).status).toBe(409)
  expect((await test.request('POST', `/sandboxes/${id}/timeout`, { timeout: 30 })).status).toBe(409)
  const connected = connect()
  expect(await isWaiting(connected)).toBe(true)
  test.host.pause(id)
  expect((await connected).status).toBe(201)
  expect(await state()).toBe('running')
})

it('runs on when its host could not pause it, and its log says why and when it is tried again', async () => {
  test.host.beginPause(id)
  await expect.poll(state).toBe('paused')
  const connected = connect()
  expect(await isWaiting(connected)).toBe(true)
  const retryAtMs = Date.now() + 20_000
  test.host.failPause(id, 'the disk is full', retryAtMs)
  expect((await connected).status).toBe(200)
  expect(await state()).toBe('running')
  const { logs } = (await test.request('GET', `/v2/sandboxes/${id}/logs?level=error`)).json<{
    logs: { message: string; fields: object }[]
  }>()
  expect(logs).toMatchObject([
    {
      message: `Sandbox was not paused at the end of its time and goes on; next attempt at ${new Date(retryAtMs).toISOString()}`,
      fields: { reason: 'the disk is full' },
    },
  ])
})

it('can be killed meanwhile', async () => {
  test.host.beginPause(id)
  await expect.poll(state).toBe('paused')
  expect((await test.request('DELETE', `/sandboxes/${id}`)).status).toBe(204)
  expect(test.host.sandboxes.size + test.host.paused.size).toBe(0)
  expect((await test.request('GET', `/sandboxes/${id}`)).status).toBe(404)
})

it('loses no report of it to a broken stream', async () => {
  test.host.beginPause(id)
  await expect.poll(state).toBe('paused')
  test.host.cutStreams()
  test.host.failPause(id, 'the disk is full', Date.now())
  await expect.poll(state).toBe('running')
  expect((await connect()).status).toBe(200)

  test.host.cutStreams()
  test.host.beginPause(id)
  await expect.poll(state).toBe('paused')
  test.host.cutStreams()
  test.host.pause(id)
  await expect.poll(async () => (await test.store.sandboxes.findById(id))?.state).toBe('paused')
  expect((await connect()).status).toBe(201)
})

it('is taken up by a server that was started meanwhile', async () => {
  test.host.beginPause(id)
  test = await test.restart()
  expect(await state()).toBe('paused')
  test.host.pause(id)
  expect((await connect()).status).toBe(201)
})
