import { timestampMs } from '@bufbuild/protobuf/wkt'
import type { SandboxMetrics } from '@sandbox/contract/gen/host/host_pb'
import type { MetricRange, SandboxMetric } from '@sandbox/contract/rest/metrics'
import type { SandboxMetricRow } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { HostEndpoint } from '../options.ts'

/** How often every host is read. */
const SAMPLE_MS = 5_000
const READ_TIMEOUT_MS = 4_000
/** One sample a minute is kept for long, those between for an hour. */
const COARSE_EVERY = 12
/** A longer answer is thinned out. */
const MOST_READ = 720

/** Reads the resource use of all sandboxes and keeps it in the store. */
export class MetricsSampler {
  readonly #hosts: readonly HostEndpoint[]
  readonly #store: Store
  readonly #logger: Logger
  readonly #reading = new Set<string>()
  readonly #roundsByHost = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined

  constructor(hosts: readonly HostEndpoint[], store: Store, logger: Logger) {
    this.#hosts = hosts
    this.#store = store
    this.#logger = logger
  }

  start(): void {
    this.#timer = setInterval(() => {
      for (const host of this.#hosts) void this.sample(host)
    }, SAMPLE_MS).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Reads one host, unless its last reading still runs. Never rejects. */
  async sample(host: HostEndpoint): Promise<void> {
    if (this.#reading.has(host.id)) return
    this.#reading.add(host.id)
    try {
      const { metrics } = await host.client.metrics({}, { timeoutMs: READ_TIMEOUT_MS })
      const round = this.#roundsByHost.get(host.id) ?? 0
      this.#roundsByHost.set(host.id, round + 1)
      const isCoarse = round % COARSE_EVERY === 0 ? 1 : 0
      if (metrics.length > 0) {
        await this.#store.sandboxMetrics.insert(metrics.map((metric) => toRow(metric, isCoarse)))
      }
    } catch (error) {
      this.#logger.warn({ err: error, hostId: host.id }, 'metrics not read')
    } finally {
      this.#reading.delete(host.id)
    }
  }

  /** Samples of a time range, oldest first. */
  async read(sandboxId: string, { start = 0, end }: MetricRange): Promise<SandboxMetric[]> {
    const toMs = end === undefined ? Number.MAX_SAFE_INTEGER : end * 1000 + 999
    let samples = await this.#store.sandboxMetrics.read(sandboxId, start * 1000, toMs)
    while (samples.length > MOST_READ) samples = thin(samples)
    return samples.map(toMetric)
  }

  /** The newest sample of each sandbox that has one, by sandbox. */
  async latest(sandboxIds: readonly string[]): Promise<Record<string, SandboxMetric>> {
    const samples = await this.#store.sandboxMetrics.latest(sandboxIds)
    return Object.fromEntries(samples.map((sample) => [sample.sandboxId, toMetric(sample)]))
  }
}

/** Leaves out every other sample of the older half. */
function thin<T>(samples: readonly T[]): T[] {
  const half = Math.floor(samples.length / 2)
  return samples.filter((_sample, index) => index >= half || index % 2 === 0)
}

const toRow = (metrics: SandboxMetrics, isCoarse: number): SandboxMetricRow => ({
  sandboxId: metrics.sandboxId,
  at: metrics.at ? timestampMs(metrics.at) : Date.now(),
  isCoarse,
  cpuCount: metrics.cpuCount,
  cpuUsedPct: metrics.cpuUsedPct,
  memoryUsedBytes: Number(metrics.memoryUsedBytes),
  memoryTotalBytes: Number(metrics.memoryTotalBytes),
  memoryCacheBytes: Number(metrics.memoryCacheBytes),
  diskUsedBytes: Number(metrics.diskUsedBytes),
  diskTotalBytes: Number(metrics.diskTotalBytes),
})

const toMetric = (sample: SandboxMetricRow): SandboxMetric => ({
  timestamp: new Date(sample.at).toISOString(),
  timestampUnix: Math.floor(sample.at / 1000),
  cpuCount: sample.cpuCount,
  cpuUsedPct: sample.cpuUsedPct,
  memUsed: sample.memoryUsedBytes,
  memTotal: sample.memoryTotalBytes,
  memCache: sample.memoryCacheBytes,
  diskUsed: sample.diskUsedBytes,
  diskTotal: sample.diskTotalBytes,
})
