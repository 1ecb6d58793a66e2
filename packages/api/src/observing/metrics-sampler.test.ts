import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { createClient, createRouterTransport } from '@connectrpc/connect'
import { Host } from '@sandbox/contract/gen/host/host_pb'
import { pino } from 'pino'
import { beforeEach, expect, it } from 'vitest'
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
let sampler: MetricsSampler
beforeEach(() => {
  now = BEGIN_MS
  fails = false
  sampler = new MetricsSampler([host], pino({ level: 'silent' }))
})

it('answers samples of a range, ends included', async () => {
  for (let n = 0; n < 3; n += 1) {
    await sampler.sample(host)
    now += 5_000
  }
  const second = BEGIN_MS / 1000
  expect(sampler.read('ia', {}).map(({ timestampUnix }) => timestampUnix - second)).toEqual([0, 5, 10])
  expect(sampler.read('ia', { start: second + 5, end: second + 5 })).toHaveLength(1)
  expect(sampler.read('ia', { end: second - 1 })).toEqual([])
  expect(sampler.read('ib', {})).toEqual([])
  expect(sampler.latest('ia')).toMatchObject({ timestampUnix: second + 10, cpuCount: 2, diskTotal: 7 })
})

it('stays bounded and keeps the newest at full detail over a long life', async () => {
  for (let n = 0; n < 3_000; n += 1) {
    await sampler.sample(host)
    now += 5_000
  }
  const samples = sampler.read('ia', {})
  expect(samples.length).toBeLessThanOrEqual(720)
  expect(samples[0]?.timestampUnix).toBe(BEGIN_MS / 1000)
  expect(samples.at(-1)!.timestampUnix - samples.at(-2)!.timestampUnix).toBe(5)
})

it('goes on after a host that did not answer', async () => {
  fails = true
  await sampler.sample(host)
  fails = false
  await sampler.sample(host)
  expect(sampler.read('ia', {})).toHaveLength(1)
})
