import { timestampMs } from '@bufbuild/protobuf/wkt'
import type { SandboxMetrics } from '@sandbox/contract/gen/host/host_pb'
import type { MetricRange, SandboxMetric } from '@sandbox/contract/rest/metrics'
import type { Logger } from 'pino'
import type { HostEndpoint } from '../options.ts'

/** How often every host is read. */
const SAMPLE_MS = 5_000
const READ_TIMEOUT_MS = 4_000
/** An hour at full detail; older samples are thinned out, so that a long life fits as well. */
const MAX_SAMPLES = 720
const MAX_SANDBOXES = 10_000
/** How long samples outlive the last one: of paused and ended sandboxes. */
const KEPT_UNSEEN_MS = 10 * 60_000
/** Numbers of one sample: a flat array of numbers takes a fraction of the memory of objects. */
const FIELDS = 8

/** Reads the resource use of all sandboxes and remembers it, in memory. */
export class MetricsSampler {
  readonly #hosts: readonly HostEndpoint[]
  readonly #logger: Logger
  /** Oldest first. Those least recently sampled come first in the map. */
  readonly #bySandbox = new Map<string, number[]>()
  readonly #reading = new Set<string>()
  #timer: NodeJS.Timeout | undefined

  constructor(hosts: readonly HostEndpoint[], logger: Logger) {
    this.#hosts = hosts
    this.#logger = logger
  }

  start(): void {
    this.#timer = setInterval(() => {
      for (const host of this.#hosts) void this.sample(host)
      this.#forgetUnseen()
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
      for (const metric of metrics) this.#remember(metric)
    } catch (error) {
      this.#logger.warn({ err: error, hostId: host.id }, 'metrics not read')
    } finally {
      this.#reading.delete(host.id)
    }
  }

  #remember(metrics: SandboxMetrics): void {
    const { sandboxId } = metrics
    const samples = this.#bySandbox.get(sandboxId) ?? []
    this.#bySandbox.delete(sandboxId)
    if (this.#bySandbox.size >= MAX_SANDBOXES) {
      this.#bySandbox.delete(this.#bySandbox.keys().next().value ?? '')
    }
    samples.push(...pack(metrics))
    this.#bySandbox.set(sandboxId, samples.length > MAX_SAMPLES * FIELDS ? thin(samples) : samples)
  }

  /** The map begins with what was not sampled for longest. */
  #forgetUnseen(now = Date.now()): void {
    for (const [sandboxId, samples] of this.#bySandbox) {
      if (now - (samples.at(-FIELDS) ?? 0) < KEPT_UNSEEN_MS) return
      this.#bySandbox.delete(sandboxId)
    }
  }

  /** Samples of a time range, oldest first. */
  read(sandboxId: string, { start = 0, end = Number.MAX_SAFE_INTEGER }: MetricRange): SandboxMetric[] {
    const samples = this.#bySandbox.get(sandboxId) ?? []
    const found: SandboxMetric[] = []
    for (let at = 0; at < samples.length; at += FIELDS) {
      const second = Math.floor(samples[at]! / 1000)
      if (second >= start && second <= end) found.push(unpack(samples.slice(at, at + FIELDS)))
    }
    return found
  }

  latest(sandboxId: string): SandboxMetric | undefined {
    const samples = this.#bySandbox.get(sandboxId)
    return samples && unpack(samples.slice(-FIELDS))
  }
}

/** Leaves out every other sample of the older half. */
function thin(samples: readonly number[]): number[] {
  const half = Math.floor(samples.length / FIELDS / 2)
  return samples.filter((_number, position) => {
    const index = Math.floor(position / FIELDS)
    return index >= half || index % 2 === 0
  })
}

const pack = (metrics: SandboxMetrics): number[] => [
  metrics.at ? timestampMs(metrics.at) : Date.now(),
  metrics.cpuCount,
  metrics.cpuUsedPct,
  Number(metrics.memoryUsedBytes),
  Number(metrics.memoryTotalBytes),
  Number(metrics.memoryCacheBytes),
  Number(metrics.diskUsedBytes),
  Number(metrics.diskTotalBytes),
]

function unpack(numbers: readonly number[]): SandboxMetric {
  const [atMs = 0, cpuCount = 0, cpuUsedPct = 0, memUsed = 0, memTotal = 0, memCache = 0, ...disk] = numbers
  const [diskUsed = 0, diskTotal = 0] = disk
  return {
    timestamp: new Date(atMs).toISOString(),
    timestampUnix: Math.floor(atMs / 1000),
    cpuCount,
    cpuUsedPct,
    memUsed,
    memTotal,
    memCache,
    diskUsed,
    diskTotal,
  }
}
