import { timestampMs } from '@bufbuild/protobuf/wkt'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi

beforeEach(async () => {
  test = await startTestApi()
})
afterEach(() => test.close())

const createSandbox = async (): Promise<{ sandboxID: string; envdAccessToken: string }> =>
  (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).json()

const listed = async (): Promise<string[]> =>
  (await test.request('GET', '/v2/sandboxes'))
    .json<{ sandboxID: string }[]>()
    .map(({ sandboxID }) => sandboxID)

it('keeps running sandboxes over a restart: same tokens, same end, still counted and killable', async () => {
  const { sandboxID, envdAccessToken } = await createSandbox()
  test = await test.restart({ limits: { maxSandboxes: 1, maxHours: 1, maxSnapshots: 1 } })
  const connected = await test.request('POST', `/v2/sandboxes/${sandboxID}/connect`, {})
  expect([connected.status, connected.json().envdAccessToken]).toEqual([200, envdAccessToken])
  expect((await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).status).toBe(429)
  expect((await test.request('DELETE', `/sandboxes/${sandboxID}`)).status).toBe(204)
  expect(test.host.sandboxes.size).toBe(0)
})

it('forgets at the start what ended while the API was away', async () => {
  const gone = await createSandbox()
  const kept = await createSandbox()
  await test.api.close()
  test.host.end(gone.sandboxID)
  test = await test.restart()
  expect(await listed()).toEqual([kept.sandboxID])
})

it('ends sandboxes that have no row, as an interrupted create leaves them', async () => {
  test.host.plant('iorphan')
  test = await test.restart()
  await expect.poll(() => test.host.sandboxes.size).toBe(0)
  expect(test.host.calls).toContain('stop iorphan')
})

it('leaves a young sandbox without a row alone while another API may be creating it', async () => {
  test.host.plant('iyoung')
  test = await test.restart({ orphanGraceMs: 300 })
  expect(test.host.sandboxes.has('iyoung')).toBe(true)
  await expect.poll(() => test.host.sandboxes.has('iyoung')).toBe(false)
})

it('tells the host the end that the user asked for', async () => {
  const { sandboxID } = await createSandbox()
  await test.store.sandboxes.setEnd(sandboxID, Date.now() + 1_234_567)
  test = await test.restart()
  const row = await test.store.sandboxes.findById(sandboxID)
  expect(timestampMs(test.host.sandboxes.get(sandboxID)!.endAt!)).toBe(row!.endAt)
})

it('compares again after a broken stream', async () => {
  const lost = await createSandbox()
  const kept = await createSandbox()
  test.host.cutStreams()
  test.host.sandboxes.delete(lost.sandboxID)
  await expect.poll(listed).toEqual([kept.sandboxID])
})

it('never removes the row of a sandbox that is being created during a comparison', async () => {
  test.host.beforeStart = () => {
    test.host.cutStreams()
    return new Promise((resolve) => setTimeout(resolve, 300))
  }
  const { sandboxID } = await createSandbox()
  expect(await listed()).toEqual([sandboxID])
  expect(test.host.sandboxes.has(sandboxID)).toBe(true)
})

it('fails a create whose sandbox ended before it was recorded', async () => {
  const insert = test.store.sandboxes.insert.bind(test.store.sandboxes)
  test.store.sandboxes.insert = async (row, completed) => {
    test.host.end(row.id, 'exited')
    await new Promise((resolve) => setTimeout(resolve, 50))
    await insert(row, completed)
  }
  const headers = { 'idempotency-key': 'k' }
  expect((await test.request('POST', '/v2/sandboxes', { templateID: 'base' }, headers)).status).toBe(500)
  expect(await listed()).toEqual([])
  test.store.sandboxes.insert = insert
  expect((await test.request('POST', '/v2/sandboxes', { templateID: 'base' }, headers)).status).toBe(201)
  expect(await listed()).toHaveLength(1)
})

it('stops a sandbox that could not be recorded', async () => {
  test.store.sandboxes.insert = async () => {
    throw new Error('disk full')
  }
  const answer = await test.request('POST', '/v2/sandboxes', { templateID: 'base' })
  expect(answer.json()).toEqual({
    code: 500,
    message: expect.any(String),
    error_code: 'internal_server_error',
  })
  expect(answer.text).not.toContain('disk full')
  expect(test.host.sandboxes.size).toBe(0)
})

it('a start that is reported after the sandbox was paused does not bring it back', async () => {
  const created = await test.request('POST', '/v2/sandboxes', { templateID: 'base' })
  const { sandboxID } = created.json<{ sandboxID: string }>()
  const before = test.host.sandboxes.get(sandboxID)!
  await test.request('POST', `/sandboxes/${sandboxID}/pause`)
  test.host.report(before)
  await new Promise((resolve) => setTimeout(resolve, 50))
  expect((await test.request('GET', `/sandboxes/${sandboxID}`)).json()).toMatchObject({ state: 'paused' })
})

it('shows as paused what its host has paused, though it had been resumed from that snapshot', async () => {
  const { sandboxID } = await createSandbox()
  await test.request('POST', `/sandboxes/${sandboxID}/pause`)
  const paused = test.host.paused.get(sandboxID)!
  expect((await test.request('POST', `/sandboxes/${sandboxID}/connect`, { timeout: 60 })).status).toBe(201)
  await test.api.close()
  // The machine loses power: what runs is gone, and so is the news that the snapshot was used up.
  test.host.sandboxes.delete(sandboxID)
  test.host.paused.set(sandboxID, paused)
  test = await test.restart()
  const shown = () => test.request('GET', `/sandboxes/${sandboxID}`)
  await expect.poll(async () => (await shown()).json()).toMatchObject({ state: 'paused' })
  expect((await test.request('POST', `/sandboxes/${sandboxID}/connect`, { timeout: 60 })).status).toBe(201)
})
