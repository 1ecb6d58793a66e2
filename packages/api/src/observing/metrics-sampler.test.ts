import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { createClient, createRouterTransport } from '@connectrpc/connect'
import { Host } from '@sandbox/contract/gen/host/host_pb'
import { openStore, type Store } from '@sandbox/store/store'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { MetricsSampler } from './metrics-sampler.ts'

const BEGIN_MS = 1_700_000_000_000
let now = BEGIN_MS
let fails = false
const transport = createRouterTransport((router) =>
  router.service(Host, {
    metrics: () => {
      if (fails) throw new Error('away')
      return { metrics: [{ sandboxId: 'ia', at: timestampFromMs(now), cpuCount: 2, diskTotalBytes: 7n }] }
    },
  }),
)
const host = { id: 'h', client: createClient(Host, transport) }
let store: Store
let sampler: MetricsSampler
beforeEach(async () => {
  now = BEGIN_MS
  fails = false
  store = await openStore({ path: ':memory:' })
  sampler = new MetricsSampler([host], store, pino({ level: 'silent' }))
})
afterEach(() => store.close())

it('answers samples of a range, ends included', async () => {
  for (let n = 0; n < 3; n += 1) {
    await sampler.sample(host)
    now += 5_000
  }
  const second = BEGIN_MS / 1000
  expect((await sampler.read('ia', {})).map(({ timestampUnix }) => timestampUnix - second)).toEqual([
    0, 5, 10,
  ])
  expect(await sampler.read('ia', { start: second + 5, end: second + 5 })).toHaveLength(1)
  expect(await sampler.read('ia', { end: second - 1 })).toEqual([])
  expect(await sampler.read('ib', {})).toEqual([])
  expect(await sampler.latest(['ia', 'ib'])).toMatchObject({
    ia: { timestampUnix: second + 10, cpuCount: 2, diskTotal: 7 },
  })
})

it('answers a long life in a bounded number of samples, the newest at full detail', async () => {
  for (let n = 0; n < 3_000; n += 1) {
    await sampler.sample(host)
    now += 5_000
  }
  const samples = await sampler.read('ia', {})
  expect(samples.length).toBeLessThanOrEqual(720)
  expect(samples[0]?.timestampUnix).toBe(BEGIN_MS / 1000)
  expect(samples.at(-1)!.timestampUnix - samples.at(-2)!.timestampUnix).toBe(5)
})

it('goes on after a host that did not answer', async () => {
  fails = true
  await sampler.sample(host)
  fails = false
  await sampler.sample(host)
  expect(await sampler.read('ia', {})).toHaveLength(1)
})

it('marks one sample a minute to be kept for long', async () => {
  for (let n = 0; n < 25; n += 1) {
    await sampler.sample(host)
    now += 5_000
  }
  const rows = await store.sandboxMetrics.read('ia', 0, now)
  expect(rows.flatMap(({ at, isCoarse }) => (isCoarse ? [(at - BEGIN_MS) / 1000] : []))).toEqual([0, 60, 120])
})
