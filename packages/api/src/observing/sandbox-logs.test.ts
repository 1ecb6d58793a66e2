import { openStore, type Store } from '@sandbox/store/store'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { Retention } from './retention.ts'
import { SandboxLogs } from './sandbox-logs.ts'

const log = pino({ level: 'silent' })
let store: Store
let logs: SandboxLogs
beforeEach(async () => {
  store = await openStore({ path: ':memory:' })
  logs = new SandboxLogs(store, log)
})
afterEach(async () => {
  await logs.close()
  await store.close()
})

const messages = async (): Promise<string[]> => (await logs.read('ia', {})).map(({ message }) => message)

it('writes many lines at once, without being asked', async () => {
  let inserts = 0
  const insert = store.sandboxLogs.insert.bind(store.sandboxLogs)
  store.sandboxLogs.insert = (lines) => {
    inserts++
    return insert(lines)
  }
  for (let n = 0; n < 100; n++) logs.append('ia', 't1', 'info', `${n}`)
  await expect.poll(() => store.sandboxLogs.has('t1', 'ia'), { timeout: 3_000 }).toBe(true)
  expect(inserts).toBe(1)
})

it('keeps lines in order that the store does not take at first', async () => {
  const insert = store.sandboxLogs.insert.bind(store.sandboxLogs)
  store.sandboxLogs.insert = () => Promise.reject(new Error('disk full'))
  logs.append('ia', 't1', 'info', 'first')
  await expect(logs.flush()).rejects.toThrow('disk full')
  store.sandboxLogs.insert = insert
  logs.append('ia', 't1', 'info', 'second')
  expect(await messages()).toEqual(['first', 'second'])
})

it('keeps the newest 10,000 lines of a sandbox', async () => {
  for (let n = 0; n < 12_000; n++) logs.append('ia', 't1', 'info', `${n}`)
  await logs.flush()
  const oldest = (await logs.read('ia', { limit: 1 }))[0]?.message
  expect(Number(oldest)).toBeGreaterThanOrEqual(2_000 - 1_000)
  expect((await logs.read('ia', { limit: 1, direction: 'backward' }))[0]?.message).toBe('11999')
})

it('deletes lines and samples that are too old, and the oldest lines when there are too many', async () => {
  const dayMs = 24 * 3600_000
  const retention = new Retention(store, dayMs, log)
  for (let n = 0; n < 5; n++) logs.append('ia', 't1', 'info', `${n}`)
  await logs.flush()
  const now = Date.now()
  const sample = {
    sandboxId: 'ia',
    cpuCount: 1,
    cpuUsedPct: 1,
    memoryUsedBytes: 1,
    memoryTotalBytes: 1,
    memoryCacheBytes: 1,
    diskUsedBytes: 1,
    diskTotalBytes: 1,
  }
  await store.sandboxMetrics.insert([
    { ...sample, at: now - 2 * dayMs, isCoarse: 1 },
    { ...sample, at: now - dayMs / 2, isCoarse: 1 },
    { ...sample, at: now - dayMs / 2 - 1, isCoarse: 0 },
    { ...sample, at: now, isCoarse: 0 },
  ])
  await retention.sweep(now, 3)
  expect(await messages()).toEqual(['2', '3', '4'])
  const kept = await store.sandboxMetrics.read('ia', 0, now)
  expect(kept.map(({ at }) => at)).toEqual([now - dayMs / 2, now])
  await retention.sweep(now + dayMs + 60_000)
  expect(await messages()).toEqual([])
})
