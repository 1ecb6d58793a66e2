import { type Client, createClient, createRouterTransport } from '@connectrpc/connect'
import { Directory, type RouteChange } from '@sandbox/contract/gen/directory/directory_pb'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from './testing/test-api.ts'

let test: TestApi
let directory: Client<typeof Directory>
const changes: RouteChange[] = []
let abort: AbortController

beforeEach(async () => {
  test = await startTestApi()
  directory = createClient(
    Directory,
    createRouterTransport((router) => router.service(Directory, test.api.directory)),
  )
  changes.length = 0
  abort = new AbortController()
  const watch = async (): Promise<void> => {
    for await (const change of directory.watch({}, { signal: abort.signal })) changes.push(change)
  }
  watch().catch(() => {})
  await expect.poll(() => changes.length).toBe(1)
})
afterEach(async () => {
  abort.abort()
  await test.close()
})

const createSandbox = async (body: object = {}): Promise<{ sandboxID: string; trafficAccessToken: string }> =>
  (await test.request('POST', '/v2/sandboxes', { templateID: 'base', ...body })).json()

const seen = () => changes.map(({ sandboxId, present }) => [sandboxId, present])

it('begins a watch with an empty id', () => {
  expect(seen()).toEqual([['', false]])
})

it('finds a sandbox as soon as its create is answered, with what the edge must know', async () => {
  const plain = await createSandbox()
  expect(await directory.find({ sandboxId: plain.sandboxID, port: 80 })).toMatchObject({
    address: test.host.sandboxes.get(plain.sandboxID)!.address,
    httpsPorts: [],
  })
  const network = { allowPublicTraffic: false, maskRequestHost: 'localhost', httpsPorts: [8443] }
  const masked = await createSandbox({ network })
  expect(await directory.find({ sandboxId: masked.sandboxID, port: 80 })).toMatchObject({
    trafficAccessToken: masked.trafficAccessToken,
    maskRequestHost: 'localhost',
    httpsPorts: [8443],
  })
  await expect.poll(seen).toEqual([
    ['', false],
    [plain.sandboxID, true],
    [masked.sandboxID, true],
  ])
})

it('answers not_found for what does not run', async () => {
  await expect(directory.find({ sandboxId: 'iunknown' })).rejects.toThrow(/not_found/)
})

it('takes the route away before the host is told to stop', async () => {
  const { sandboxID } = await createSandbox()
  let foundDuringStop: unknown
  let changesAtStop: unknown
  test.host.beforeStop = async () => {
    foundDuringStop = await directory.find({ sandboxId: sandboxID }).catch((error: Error) => error.message)
    changesAtStop = seen().at(-1)
  }
  await test.request('DELETE', `/sandboxes/${sandboxID}`)
  expect(foundDuringStop).toMatch(/not_found/)
  expect(changesAtStop).toEqual([sandboxID, false])
  expect(seen().filter(([id]) => id === sandboxID)).toEqual([
    [sandboxID, true],
    [sandboxID, false],
  ])
})

it('tells when a sandbox ends by itself', async () => {
  const { sandboxID } = await createSandbox()
  test.host.end(sandboxID, 'exited')
  await expect.poll(() => seen().at(-1)).toEqual([sandboxID, false])
  await expect(directory.find({ sandboxId: sandboxID })).rejects.toThrow(/not_found/)
})

it('brings the route back when the host could not stop the sandbox', async () => {
  const { sandboxID } = await createSandbox()
  test.host.beforeStop = () => {
    throw new Error('unreachable')
  }
  await test.request('DELETE', `/sandboxes/${sandboxID}`)
  expect((await directory.find({ sandboxId: sandboxID })).sandboxId).toBe(sandboxID)
  await expect.poll(() => seen().at(-1)).toEqual([sandboxID, true])
})
