import { pino } from 'pino'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Routes } from './routes.ts'
import { TestDirectory } from './testbed.ts'

let directory: TestDirectory
let routes: Routes
beforeEach(async () => {
  directory = new TestDirectory()
  directory.routes.set('ia', { address: '192.0.2.1' })
  routes = new Routes(directory.client, pino({ level: 'silent' }))
  void routes.watch()
  await vi.waitFor(() => expect(directory.watching).toBe(1))
})
afterEach(() => routes.close())

/** Finds until the answer is kept, as it is once the stream of changes is live. */
async function known(sandboxId: string): Promise<void> {
  await vi.waitFor(async () => {
    await routes.find(sandboxId, 80)
    const before = directory.finds
    await routes.find(sandboxId, 80)
    expect(directory.finds).toBe(before)
  })
}

test('asks once and keeps the answer until it changes', async () => {
  await known('ia')
  directory.routes.set('ia', { address: '192.0.2.2' })
  directory.announce('ia', true)
  await vi.waitFor(async () => expect((await routes.find('ia', 80))?.route.address).toBe('192.0.2.2'))
})

test('questions of the same sandbox at once are one', async () => {
  const before = directory.finds
  await Promise.all(Array.from({ length: 20 }, () => routes.find('ia', 80)))
  expect(directory.finds - before).toBe(1)
})

test('does not remember what it did not find', async () => {
  expect(await routes.find('ib', 80)).toBeUndefined()
  directory.routes.set('ib', { address: '192.0.2.3' })
  expect((await routes.find('ib', 80))?.route.address).toBe('192.0.2.3')
})

test('an answer that a kill overtook is not believed', async () => {
  const release = directory.hold()
  const answer = routes.find('ia', 80)
  await vi.waitFor(() => expect(directory.finds).toBe(1))
  directory.kill('ia')
  await new Promise((resolve) => setTimeout(resolve, 20))
  release()
  expect(await answer).toBeUndefined()
})

test('a kill resets what runs, also a place that is held', async () => {
  const place = await routes.find('ia', 80)
  let broken = 0
  place?.upstream.track(() => broken++)
  directory.kill('ia')
  await vi.waitFor(() => expect(broken).toBe(1))
  expect(place?.upstream.gone).toBe(true)
  expect(await routes.find('ia', 80)).toBeUndefined()
})

test('a sandbox that moved loses its old connections', async () => {
  const before = await routes.find('ia', 80)
  directory.routes.set('ia', { address: '192.0.2.9' })
  directory.announce('ia', true)
  await vi.waitFor(async () => expect((await routes.find('ia', 80))?.upstream.address).toBe('192.0.2.9'))
  expect(before?.upstream.gone).toBe(true)
})

test('a lost stream of changes drops everything known and is followed again', async () => {
  await known('ia')
  directory.routes.delete('ia')
  directory.dropWatchers()
  await vi.waitFor(async () => expect(await routes.find('ia', 80)).toBeUndefined())
  await vi.waitFor(() => expect(directory.watching).toBe(1))
})

test('a kill that went unheard is noticed when the stream of changes is back', async () => {
  const place = await routes.find('ia', 80)
  let broken = 0
  place?.upstream.track(() => broken++)
  directory.routes.delete('ia')
  directory.dropWatchers()
  await vi.waitFor(() => expect(broken).toBe(1))
})

test('questions with other credentials are their own, and carry them', async () => {
  const release = directory.hold()
  const asked = [
    routes.find('ia', 80),
    routes.find('ia', 80, { trafficAccessToken: 't' }),
    routes.find('ia', 80, { trafficAccessToken: 't' }),
    routes.find('ia', 80, { envdAccessToken: 't' }),
  ]
  await vi.waitFor(() => expect(directory.finds).toBe(3))
  release()
  await Promise.all(asked)
  expect(
    directory.asked.map(({ trafficAccessToken, envdAccessToken }) => [trafficAccessToken, envdAccessToken]),
  ).toEqual([
    [undefined, undefined],
    ['t', undefined],
    [undefined, 't'],
  ])
})

test('an announcement overtakes the questions of all credentials', async () => {
  const release = directory.hold()
  const asked = [routes.find('ia', 80), routes.find('ia', 80, { trafficAccessToken: 't' })]
  await vi.waitFor(() => expect(directory.finds).toBe(2))
  directory.kill('ia')
  await new Promise((resolve) => setTimeout(resolve, 20))
  release()
  expect(await Promise.all(asked)).toEqual([undefined, undefined])
})

test('a sandbox that a late answer did not find keeps what runs to it', async () => {
  const release = directory.hold()
  const late = routes.find('ilate', 80)
  await vi.waitFor(() => expect(directory.finds).toBe(1))
  directory.gate = Promise.resolve()
  directory.routes.set('ilate', { address: '192.0.2.4' })
  directory.announce('ilate', true)
  await new Promise((resolve) => setTimeout(resolve, 20))
  const place = await routes.find('ilate', 80)
  release()
  expect((await late)?.route.address).toBe('192.0.2.4')
  expect(place?.upstream.gone).toBe(false)
})
