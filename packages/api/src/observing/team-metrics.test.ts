import { openStore } from '@sandbox/store/store'
import { pino } from 'pino'
import { expect, it } from 'vitest'
import { type RunningSandbox, RunningSandboxes } from '../sandboxes/running.ts'
import { TeamMetrics } from './team-metrics.ts'

it('samples what teams have and start, and keeps it for those who come after', async () => {
  const store = await openStore({ path: ':memory:' })
  const log = pino({ level: 'silent' })
  const running = new RunningSandboxes()
  const metrics = new TeamMetrics(running, store, log)
  const sandbox = (id: string): RunningSandbox => ({
    id,
    teamId: 't1',
    hostId: 'h',
    address: '',
    phase: 'running',
    startedAt: 0,
    endAt: 0,
    ingress: { isPrivate: false, httpsPorts: [], wakes: false },
  })
  for (const id of ['ia', 'ib', 'ic']) running.reserve(sandbox(id), 10)
  await metrics.sample(30_000)
  running.remove('ia')
  await metrics.sample(60_000)
  metrics.stop()
  const later = new TeamMetrics(new RunningSandboxes(), store, log)
  expect(await later.read('t1', {})).toMatchObject([
    { timestampUnix: 30, concurrentSandboxes: 3, sandboxStartRate: 0.1 },
    { timestampUnix: 60, concurrentSandboxes: 2, sandboxStartRate: 0 },
  ])
  expect(await later.read('t1', { start: 31, end: 60 })).toHaveLength(1)
  expect(await later.read('t2', {})).toEqual([])
  later.stop()
  await store.close()
})
