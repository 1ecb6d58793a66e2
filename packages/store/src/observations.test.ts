import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { LogQuery } from './sandbox-logs.ts'
import type { SandboxLogRow, SandboxMetricRow } from './schema.ts'
import { openStore, type Store } from './store.ts'
import { databaseKinds, type TestDatabases } from './testing/databases.ts'

const BEGIN_MS = 1_700_000_000_000
const MINUTE_MS = 60_000

const line = (n: number, change: Partial<SandboxLogRow> = {}): SandboxLogRow => ({
  sandboxId: 'ia',
  teamId: 't1',
  at: BEGIN_MS + n,
  seq: (BEGIN_MS + n) * 1000,
  level: n % 4,
  message: `Line ${n}`,
  fields: '{}',
  ...change,
})
const sample = (at: number, isCoarse: number, sandboxId = 'ia'): SandboxMetricRow => ({
  sandboxId,
  at,
  isCoarse,
  cpuCount: 2,
  cpuUsedPct: 12.34,
  memoryUsedBytes: 2 ** 40,
  memoryTotalBytes: 2 ** 41,
  memoryCacheBytes: 3,
  diskUsedBytes: 4,
  diskTotalBytes: 5,
})

describe.each(databaseKinds)('observations on %s', (_name, start) => {
  let databases: TestDatabases
  let store: Store

  beforeAll(async () => {
    databases = await start()
  }, 180_000)
  afterAll(() => databases.stop())
  beforeEach(async () => {
    store = await openStore(await databases.create())
    return () => store.close()
  })

  const messages = async (change: Partial<LogQuery> = {}, id = 'ia'): Promise<string[]> => {
    const query: LogQuery = { direction: 'forward', leastLevel: 0, search: '', limit: 1_000, ...change }
    return (await store.sandboxLogs.read(id, query)).map(({ message }) => message)
  }

  it('reads lines by cursor, direction, level, substring and limit', async () => {
    await store.sandboxLogs.insert([line(2), line(0), line(1), line(3), line(0, { sandboxId: 'ib' })])
    expect(await messages()).toEqual(['Line 0', 'Line 1', 'Line 2', 'Line 3'])
    expect(await messages({ cursor: BEGIN_MS + 2 })).toEqual(['Line 2', 'Line 3'])
    expect(await messages({ cursor: BEGIN_MS + 1, direction: 'backward' })).toEqual(['Line 1', 'Line 0'])
    expect(await messages({ leastLevel: 2 })).toEqual(['Line 2', 'Line 3'])
    expect(await messages({ search: 'e 1' })).toEqual(['Line 1'])
    expect(await messages({ search: 'line' })).toEqual([])
    expect(await messages({ search: '%' })).toEqual([])
    expect(await messages({ limit: 1, direction: 'backward' })).toEqual(['Line 3'])
    expect(await messages({ limit: 0 })).toEqual([])
    expect(await store.sandboxLogs.has('t1', 'ib')).toBe(true)
    expect(await store.sandboxLogs.has('t2', 'ib')).toBe(false)
  })

  it('keeps the order of lines of one millisecond', async () => {
    await store.sandboxLogs.insert([8, 9, 10].map((seq) => line(0, { seq, message: `${seq}` })))
    expect(await messages()).toEqual(['8', '9', '10'])
    expect(await messages({ direction: 'backward' })).toEqual(['10', '9', '8'])
  })

  it('bounds lines by number for each sandbox, by number for all, and by age', async () => {
    const minute = (n: number): Partial<SandboxLogRow> => ({ seq: (BEGIN_MS + n * MINUTE_MS) * 1000 })
    await store.sandboxLogs.insert(Array.from({ length: 60 }, (_unused, n) => line(n, minute(n))))
    await store.sandboxLogs.insert([line(0, { sandboxId: 'ib' })])
    await store.sandboxLogs.trim('ia', 50)
    expect(await messages()).toHaveLength(50)
    expect((await messages())[0]).toBe('Line 10')
    expect(await messages({}, 'ib')).toHaveLength(1)

    expect(await store.sandboxLogs.deleteSomeBeyond(51)).toBe(false)
    expect(await store.sandboxLogs.deleteSomeBeyond(40)).toBe(false)
    expect((await messages())[0]).toBe('Line 20')
    expect(await messages({}, 'ib')).toEqual([])

    while (await store.sandboxLogs.deleteSomeBefore(BEGIN_MS + 55 * MINUTE_MS));
    expect((await messages())[0]).toBe('Line 55')
  })

  it('reads samples of a range and the newest of several sandboxes', async () => {
    await store.sandboxMetrics.insert([sample(BEGIN_MS, 1), sample(BEGIN_MS + 5_000, 0)])
    await store.sandboxMetrics.insert([sample(BEGIN_MS, 1), sample(BEGIN_MS + 1, 1, 'ib')])
    expect(await store.sandboxMetrics.read('ia', BEGIN_MS, BEGIN_MS + 5_000)).toEqual([
      sample(BEGIN_MS, 1),
      sample(BEGIN_MS + 5_000, 0),
    ])
    expect(await store.sandboxMetrics.read('ia', BEGIN_MS + 1, BEGIN_MS + 4_999)).toEqual([])
    const latest = await store.sandboxMetrics.latest(['ia', 'ib', 'ic'])
    expect(latest.map(({ sandboxId, at }) => [sandboxId, at - BEGIN_MS])).toEqual([
      ['ia', 5_000],
      ['ib', 1],
    ])
  })

  it('deletes old samples, fine ones apart from coarse ones', async () => {
    const times = Array.from({ length: 30 }, (_unused, n) => BEGIN_MS + n * MINUTE_MS)
    await store.sandboxMetrics.insert(times.map((at, n) => sample(at, n % 2)))
    while (await store.sandboxMetrics.deleteSomeBefore('fine', times[20]!));
    const left = await store.sandboxMetrics.read('ia', 0, times[29]!)
    expect(left).toHaveLength(20)
    expect(left.filter(({ isCoarse }) => !isCoarse).map(({ at }) => at)[0]).toBe(times[20])
    expect(left[0]?.at).toBe(times[1])
  })

  it('reads samples of a team, and deletes old ones', async () => {
    const samples = [0, 1, 2].map((n) => ({
      teamId: 't1',
      at: BEGIN_MS + n,
      concurrentSandboxes: n,
      startRate: 0.5,
    }))
    await store.teamMetrics.insert([...samples, { ...samples[0]!, teamId: 't2' }])
    await store.teamMetrics.insert(samples)
    expect(await store.teamMetrics.read('t1', BEGIN_MS, BEGIN_MS + 1)).toEqual(samples.slice(0, 2))
    await store.teamMetrics.deleteBefore(BEGIN_MS + 1)
    expect(await store.teamMetrics.read('t1', 0, BEGIN_MS + 9)).toEqual(samples.slice(1))
    expect(await store.teamMetrics.read('t2', 0, BEGIN_MS + 9)).toEqual([])
  })
})
