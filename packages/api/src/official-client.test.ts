import { RateLimitError, Sandbox, SandboxNotFoundError, Template } from 'e2b'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startTestApi, type TestApi } from './testing/test-api.ts'

/** The official JavaScript client over a real socket. What runs inside sandboxes is not part of this room. */

let test: TestApi
let connection: { apiUrl: string; apiKey: string }

beforeAll(async () => {
  test = await startTestApi()
  const apiUrl = await test.api.app.listen({ host: '127.0.0.1', port: 0 })
  connection = { apiUrl, apiKey: test.key }
})
afterAll(() => test.close())

it('creates, reads, lists, extends and kills', async () => {
  const metadata = { 'who & what': 'ä=ö', plain: 'x' }
  const sandbox = await Sandbox.create('base', { ...connection, metadata, timeoutMs: 60_000 })
  const info = await sandbox.getInfo()
  expect(info).toMatchObject({ sandboxId: sandbox.sandboxId, state: 'running', metadata, memoryMB: 512 })
  expect(info.endAt.getTime() - info.startedAt.getTime()).toBe(60_000)

  await Sandbox.create('base', connection)
  const paginator = Sandbox.list({ ...connection, query: { metadata, state: ['running'] }, limit: 1 })
  const page = await paginator.nextItems()
  expect(page.map((found) => found.sandboxId)).toEqual([sandbox.sandboxId])
  expect(paginator.hasNext).toBe(false)

  await sandbox.setTimeout(120_000)
  expect((await sandbox.getInfo()).endAt.getTime()).toBeGreaterThan(info.endAt.getTime())
  const connected = await Sandbox.connect(sandbox.sandboxId, connection)
  expect(connected.sandboxId).toBe(sandbox.sandboxId)
  expect(await sandbox.kill()).toBe(true)
  expect(await Sandbox.kill(sandbox.sandboxId, connection)).toBe(false)
  await expect(Sandbox.connect(sandbox.sandboxId, connection)).rejects.toThrow(SandboxNotFoundError)
  await expect(Sandbox.setTimeout(sandbox.sandboxId, 1000, connection)).rejects.toThrow(SandboxNotFoundError)
})

it('walks all pages', async () => {
  const made = await Promise.all(Array.from({ length: 5 }, () => Sandbox.create('base', connection)))
  const paginator = Sandbox.list({ ...connection, limit: 2 })
  const seen: string[] = []
  while (paginator.hasNext) seen.push(...(await paginator.nextItems()).map((found) => found.sandboxId))
  expect(seen).toEqual(expect.arrayContaining(made.map((sandbox) => sandbox.sandboxId)))
})

it('maps errors to the classes of the client', async () => {
  await expect(Sandbox.create('base', { ...connection, apiKey: 'wrong' })).rejects.toThrow(
    /401|[Uu]nauthorized|key/,
  )
  await expect(Sandbox.create('nothing', connection)).rejects.toThrow(/404/)
  await test.store.teams.update(test.team.id, { maxSandboxes: 0 })
  await expect(Sandbox.create('base', connection)).rejects.toThrow(RateLimitError)
  await test.store.teams.update(test.team.id, { maxSandboxes: null })
}, 15_000)

it('knows whether a template exists', async () => {
  expect(await Template.exists('base', connection)).toBe(true)
  expect(await Template.exists('nothing', connection)).toBe(false)
})
