import { type Client, createClient, createRouterTransport } from '@connectrpc/connect'
import { Directory } from '@sandbox/contract/gen/directory/directory_pb'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

let test: TestApi
let directory: Client<typeof Directory>
beforeEach(async () => {
  test = await startTestApi()
  directory = createClient(
    Directory,
    createRouterTransport((router) => router.service(Directory, test.api.directory)),
  )
})
afterEach(() => test.close())

interface Created {
  sandboxID: string
  envdAccessToken: string
  trafficAccessToken: string
}

async function paused(body: object = {}, pause: object = {}): Promise<Created> {
  const created = (
    await test.request('POST', '/v2/sandboxes', {
      templateID: 'base',
      autoResume: { enabled: true },
      ...body,
    })
  ).json<Created & Record<string, unknown>>()
  await test.request('POST', `/sandboxes/${created.sandboxID}/pause`, pause)
  return created
}
const detail = async (id: string) => (await test.request('GET', `/sandboxes/${id}`)).json()

it('resumes for traffic to any port, for five minutes at least', async () => {
  const { sandboxID } = await paused({ timeout: 10 })
  const route = await directory.find({ sandboxId: sandboxID, port: 8080 })
  expect(route.address).toBe(test.host.sandboxes.get(sandboxID)!.address)
  const { startedAt, endAt } = await detail(sandboxID)
  expect(Date.parse(String(endAt)) - Date.parse(String(startedAt))).toBe(300_000)
})

it('takes the timeout of the creation where that is longer, up to the limit of the team', async () => {
  const { sandboxID } = await paused({ timeout: 1000 })
  await directory.find({ sandboxId: sandboxID, port: 80 })
  const first = await detail(sandboxID)
  expect(Date.parse(String(first.endAt)) - Date.parse(String(first.startedAt))).toBe(1_000_000)
})

it('resumes once for many requests', async () => {
  const { sandboxID } = await paused()
  await Promise.all(Array.from({ length: 20 }, () => directory.find({ sandboxId: sandboxID, port: 80 })))
  expect(test.host.starts).toHaveLength(2)
})

it('never resumes for a look, without autoResume, or without memory', async () => {
  const { sandboxID } = await paused()
  await expect(directory.find({ sandboxId: sandboxID, port: 80, peek: true })).rejects.toThrow(/not_found/)
  const off = await paused({ autoResume: { enabled: false } })
  await expect(directory.find({ sandboxId: off.sandboxID, port: 80 })).rejects.toThrow(/not_found/)
  const filesOnly = await paused({}, { memory: false })
  await expect(directory.find({ sandboxId: filesOnly.sandboxID, port: 80 })).rejects.toThrow(/not_found/)
  expect(test.host.sandboxes.size).toBe(0)
})

it('asks for the token of the agent on its port', async () => {
  const { sandboxID, envdAccessToken } = await paused()
  for (const token of [undefined, 'wrong']) {
    const request = { sandboxId: sandboxID, port: 49983, ...(token ? { envdAccessToken: token } : {}) }
    await expect(directory.find(request)).rejects.toThrow(
      /permission_denied.*can't be resumed with the credentials provided/,
    )
  }
  const route = await directory.find({ sandboxId: sandboxID, port: 49983, envdAccessToken })
  expect(route.sandboxId).toBe(sandboxID)
})

it('asks for the traffic token where traffic is private', async () => {
  const { sandboxID, trafficAccessToken } = await paused({ network: { allowPublicTraffic: false } })
  const request = { sandboxId: sandboxID, port: 80 }
  await expect(directory.find(request)).rejects.toThrow(/permission_denied/)
  await expect(directory.find({ ...request, trafficAccessToken: 'x' })).rejects.toThrow(/permission_denied/)
  expect((await directory.find({ ...request, trafficAccessToken })).sandboxId).toBe(sandboxID)
})

it('says that the team is at its limit', async () => {
  const { sandboxID } = await paused()
  await test.store.teams.update(test.team.id, { maxSandboxes: 0 })
  await expect(directory.find({ sandboxId: sandboxID, port: 80 })).rejects.toThrow(
    /resource_exhausted.*maximum number of concurrent/,
  )
})

it('says that a sandbox is being paused', async () => {
  const created = await test.request('POST', '/v2/sandboxes', {
    templateID: 'base',
    autoResume: { enabled: true },
  })
  const { sandboxID } = created.json<Created & Record<string, unknown>>()
  const gate = Promise.withResolvers<void>()
  test.host.beforeCapture = () => gate.promise
  const pausing = test.request('POST', `/sandboxes/${sandboxID}/pause`)
  await expect.poll(() => test.host.pauses.length).toBe(1)
  await expect(directory.find({ sandboxId: sandboxID, port: 80 })).rejects.toThrow(/aborted/)
  gate.resolve()
  await pausing
  expect((await directory.find({ sandboxId: sandboxID, port: 80 })).sandboxId).toBe(sandboxID)
})

it('does not find one that is being paused and will not wake', async () => {
  const created = await test.request('POST', '/v2/sandboxes', { templateID: 'base' })
  const { sandboxID } = created.json<Created & Record<string, unknown>>()
  const gate = Promise.withResolvers<void>()
  test.host.beforeCapture = () => gate.promise
  const pausing = test.request('POST', `/sandboxes/${sandboxID}/pause`)
  await expect.poll(() => test.host.pauses.length).toBe(1)
  await expect(directory.find({ sandboxId: sandboxID, port: 80 })).rejects.toThrow(/not_found/)
  gate.resolve()
  await pausing
})

it('a sandbox that was resumed and paused again wakes again', async () => {
  const { sandboxID } = await paused()
  await directory.find({ sandboxId: sandboxID, port: 80 })
  test.host.pause(sandboxID)
  await expect.poll(async () => (await detail(sandboxID)).state).toBe('paused')
  await directory.find({ sandboxId: sandboxID, port: 80 })
  expect(await detail(sandboxID)).toMatchObject({ state: 'running' })
})
