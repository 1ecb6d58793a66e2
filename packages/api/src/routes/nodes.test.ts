import { afterEach, beforeEach, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

const adminToken = 'a-token-of-the-operator'
const admin = { 'x-api-key': '', 'x-admin-token': adminToken }
let test: TestApi
beforeEach(async () => {
  test = await startTestApi({ adminToken })
})
afterEach(() => test.close())

const createSandbox = async (): Promise<number> =>
  (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).status
const nodes = async () =>
  (await test.request('GET', '/nodes', undefined, admin)).json<Record<string, unknown>[]>()
const put = async (id: unknown, status: string): Promise<number> =>
  (await test.request('POST', `/nodes/${id}`, { status }, admin)).status

it('shows the machines and what came of their starts', async () => {
  await createSandbox()
  const [node, ...others] = await nodes()
  expect(others).toEqual([])
  expect(node).toMatchObject({
    id: test.host.endpoint.id,
    status: 'ready',
    createSuccesses: 1,
    createFails: 0,
    machineInfo: { cpuFamily: '6', cpuModel: '143', cpuModelName: 'A processor', cpuArchitecture: 'x86_64' },
    metrics: {
      cpuCount: 8,
      cpuPercent: 13,
      allocatedCPU: 2,
      allocatedMemoryBytes: 2 ** 30,
      disks: [
        {
          ...{ mountPoint: '/', device: '/dev/vda1', filesystemType: 'ext4' },
          ...{ usedBytes: 2 ** 30, totalBytes: 2 ** 34 },
        },
      ],
    },
  })
  const one = (await test.request('GET', `/nodes/${node?.id}`, undefined, admin)).json()
  expect(one).toMatchObject({ id: node?.id, metrics: node?.metrics })
  expect(one.sandboxStartingCount).toBeUndefined()
  expect((await test.request('GET', '/nodes/nothing', undefined, admin)).json()).toMatchObject({ code: 404 })
})

it('gives a draining machine nothing new, and keeps what it runs', async () => {
  const created = (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).json()
  const { id } = test.host.endpoint
  expect(await put(id, 'draining')).toBe(204)
  expect((await nodes())[0]).toMatchObject({ status: 'draining' })
  expect(await createSandbox()).toBe(503)
  expect((await test.request('GET', `/sandboxes/${created.sandboxID}`)).status).toBe(200)
  expect(await put(id, 'ready')).toBe(204)
  expect(await createSandbox()).toBe(201)
})

it('refuses what cannot be set, and everybody but the operator', async () => {
  const { id } = test.host.endpoint
  expect([await put(id, 'unhealthy'), await put(id, 'asleep'), await put('nothing', 'ready')]).toEqual([
    400, 400, 404,
  ])
  expect((await test.request('GET', '/nodes')).status).toBe(401)
  expect((await test.request('POST', `/nodes/${id}`, { status: 'draining' })).status).toBe(401)
})
