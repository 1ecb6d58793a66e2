import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import {
  Code,
  ConnectError,
  createClient,
  createRouterTransport,
  type ServiceImpl,
} from '@connectrpc/connect'
import {
  Host,
  type HostEvent,
  HostEventSchema,
  OnEnd,
  type PausedSandbox,
  PausedSandboxSchema,
  type PauseRequest,
  type SandboxLogBatch,
  SandboxLogBatchSchema,
  SandboxState,
  type SandboxStatus,
  SandboxStatusSchema,
  type SetNetworkRequest,
  type StartRequest,
} from '@sandbox/contract/gen/host/host_pb'
import type { HostEndpoint } from '../options.ts'

/** A host that keeps the promises of HostService without running anything, for tests of the control plane. */
export class ScriptedHost {
  readonly id: string
  readonly endpoint: HostEndpoint
  readonly sandboxes = new Map<string, SandboxStatus>()
  readonly paused = new Map<string, PausedSandbox>()
  /** Snapshots in place, by id. */
  readonly snapshots = new Set<string>()
  readonly starts: StartRequest[] = []
  readonly pauses: PauseRequest[] = []
  readonly networks: SetNetworkRequest[] = []
  /** What its agents do when they are asked to prepare for a pause. */
  agentsAnswer = true
  /** What happened, in order: `start i…`, `stop i…`. */
  readonly calls: string[] = []
  /** How often somebody began to collect logs. */
  collects = 0
  capacity = 100
  /** What it says of its engines. */
  engines = [
    { name: 'container', usable: true },
    { name: 'microvm', detail: 'not installed', remedy: 'npm run engine -- install firecracker' },
  ]
  /** Called before a start or stop is done; may throw or wait. */
  beforeStart: (request: StartRequest) => Promise<void> | void = () => {}
  beforeStop: (sandboxId: string) => Promise<void> | void = () => {}
  beforeCapture: (sandboxId: string) => Promise<void> | void = () => {}
  readonly #ends = new Map<string, { pauses: boolean; memory: boolean }>()
  #nextSnapshot = 1
  readonly #collectors = new Set<(batch: SandboxLogBatch) => void>()
  readonly #watchers = new Set<(event: HostEvent) => void>()
  readonly #cut = new Set<() => void>()
  readonly #timers = new Map<string, NodeJS.Timeout>()
  #nextAddress = 2

  constructor(id = 'host-1') {
    this.id = id
    const transport = createRouterTransport((router) => router.service(Host, this.#service()))
    this.endpoint = { id, client: createClient(Host, transport) }
  }

  /** Ends a sandbox as its timer or a crash would. */
  end(sandboxId: string, reason = 'timeout'): void {
    if (!this.sandboxes.delete(sandboxId)) return
    clearTimeout(this.#timers.get(sandboxId))
    this.#emit({ case: 'ended', value: { sandboxId, reason, at: timestampFromMs(Date.now()) } })
  }

  /** Keeps a sandbox as a snapshot, as a request or its timer would. */
  pause(sandboxId: string, memory = true): PausedSandbox | undefined {
    if (!this.sandboxes.delete(sandboxId)) return undefined
    clearTimeout(this.#timers.get(sandboxId))
    const at = timestampFromMs(Date.now())
    const paused = create(PausedSandboxSchema, {
      sandboxId,
      snapshotId: `pause-${this.#nextSnapshot++}`,
      hasMemory: memory,
      agentUnresponsive: !this.agentsAnswer,
      pausedAt: at,
    })
    this.paused.set(sandboxId, paused)
    this.#emit({ case: 'ended', value: { sandboxId, reason: 'paused', at, paused } })
    return paused
  }

  /** Hands what an agent reports to whoever collects it. */
  reportLogs(
    sandboxId: string,
    lines: MessageInitShape<typeof SandboxLogBatchSchema>['lines'] & object,
  ): void {
    const batch = create(SandboxLogBatchSchema, { sandboxId, lines })
    for (const collector of this.#collectors) collector(batch)
  }

  /** Begins to pause a sandbox, as the end of its time does; `pause` or `failPause` follows. */
  beginPause(sandboxId: string): void {
    const status = this.sandboxes.get(sandboxId)
    if (!status) return
    status.state = SandboxState.PAUSING
    this.#emit({ case: 'pausing', value: { sandboxId } })
  }

  /** Lets a sandbox go on that was to be paused. */
  failPause(sandboxId: string, reason: string, retryAtMs: number): void {
    const status = this.sandboxes.get(sandboxId)
    if (!status) return
    status.state = SandboxState.RUNNING
    this.#emit({ case: 'pauseFailed', value: { sandboxId, reason, retryAt: timestampFromMs(retryAtMs) } })
  }

  /** Tells watchers that a sandbox was started. */
  report(status: SandboxStatus): void {
    this.#emit({ case: 'started', value: status })
  }

  /** Puts a sandbox there that no start was asked for. */
  plant(sandboxId: string, endAt = Date.now() + 60_000, snapshotId = ''): SandboxStatus {
    const now = timestampFromMs(Date.now())
    const status = create(SandboxStatusSchema, {
      sandboxId,
      state: SandboxState.RUNNING,
      address: `10.11.0.${this.#nextAddress++}`,
      startedAt: now,
      endAt: timestampFromMs(endAt),
      engine: 'scripted',
      snapshotId,
    })
    this.sandboxes.set(sandboxId, status)
    this.#arm(status)
    return status
  }

  /** Breaks every stream; sandboxes go on. */
  cutStreams(): void {
    for (const cut of this.#cut) cut()
  }

  close(): void {
    for (const timer of this.#timers.values()) clearTimeout(timer)
    this.cutStreams()
  }

  #arm(status: SandboxStatus): void {
    clearTimeout(this.#timers.get(status.sandboxId))
    const waitMs = Math.max(0, timestampMs(status.endAt!) - Date.now())
    this.#timers.set(status.sandboxId, setTimeout(() => this.#expire(status.sandboxId), waitMs).unref())
  }

  #expire(sandboxId: string): void {
    const onEnd = this.#ends.get(sandboxId)
    if (onEnd?.pauses) this.pause(sandboxId, onEnd.memory)
    else this.end(sandboxId)
  }

  #emit(event: NonNullable<MessageInitShape<typeof HostEventSchema>['event']>): void {
    const message = create(HostEventSchema, { event })
    for (const watcher of this.#watchers) watcher(message)
  }

  #service(): Partial<ServiceImpl<typeof Host>> {
    return {
      start: async (request) => {
        this.calls.push(`start ${request.sandboxId}`)
        this.starts.push(request)
        await this.beforeStart(request)
        if (this.sandboxes.size >= this.capacity) throw new ConnectError('full', Code.ResourceExhausted)
        const { sandboxId, snapshotId, onEnd, pauseMemory = true } = request
        const kept = this.paused.get(sandboxId)
        if (request.consumeSnapshot) {
          if (kept?.snapshotId !== snapshotId) throw new ConnectError('no such snapshot', Code.NotFound)
          this.paused.delete(sandboxId)
        }
        this.#ends.set(sandboxId, { pauses: onEnd === OnEnd.PAUSE, memory: pauseMemory })
        const status = this.plant(sandboxId, timestampMs(request.endAt!), snapshotId)
        this.#emit({ case: 'started', value: status })
        return { sandbox: status, fromPool: false }
      },
      stop: async ({ sandboxId }) => {
        this.calls.push(`stop ${sandboxId}`)
        await this.beforeStop(sandboxId)
        if (this.paused.delete(sandboxId)) return {}
        if (!this.sandboxes.has(sandboxId)) throw new ConnectError('unknown', Code.NotFound)
        this.end(sandboxId, 'killed')
        return {}
      },
      setEnd: ({ sandboxId, endAt, extendOnly }) => {
        const status = this.sandboxes.get(sandboxId)
        if (!status) throw new ConnectError('unknown', Code.NotFound)
        if (status.state !== SandboxState.RUNNING) throw new ConnectError('pausing', Code.FailedPrecondition)
        if (!extendOnly || timestampMs(endAt!) > timestampMs(status.endAt!)) status.endAt = endAt!
        this.#arm(status)
        return { endAt: status.endAt! }
      },
      pause: async (request) => {
        const { sandboxId, memory = true } = request
        this.calls.push(`pause ${sandboxId}`)
        this.pauses.push(request)
        await this.beforeCapture(sandboxId)
        if (!this.agentsAnswer && (request.requireHealthyGuest || !memory)) {
          throw new ConnectError('the agent does not answer', Code.Unavailable)
        }
        const paused = this.pause(sandboxId, memory)
        if (!paused) throw new ConnectError('unknown', Code.NotFound)
        return { paused }
      },
      snapshot: async ({ sandboxId, snapshotId, memory = true }) => {
        this.calls.push(`snapshot ${sandboxId}`)
        await this.beforeCapture(sandboxId)
        if (!this.sandboxes.has(sandboxId)) throw new ConnectError('unknown', Code.NotFound)
        this.snapshots.add(snapshotId)
        return { snapshotId, hasMemory: memory, sizeBytes: 1n }
      },
      deleteSnapshot: ({ snapshotId }) => {
        this.snapshots.delete(snapshotId)
        return {}
      },
      setNetwork: (request) => {
        if (!this.sandboxes.has(request.sandboxId)) throw new ConnectError('unknown', Code.NotFound)
        this.networks.push(request)
        return {}
      },
      metrics: ({ sandboxIds }) => ({
        metrics: [...this.sandboxes.keys()]
          .filter((id) => sandboxIds.length === 0 || sandboxIds.includes(id))
          .map((sandboxId) => ({
            sandboxId,
            at: timestampFromMs(Date.now()),
            cpuCount: 2,
            cpuUsedPct: 12.5,
            memoryUsedBytes: 64n * 2n ** 20n,
            memoryTotalBytes: 512n * 2n ** 20n,
            memoryCacheBytes: 2n ** 20n,
            diskUsedBytes: 3n * 2n ** 20n,
            diskTotalBytes: 1024n * 2n ** 20n,
          })),
      }),
      list: () => ({ sandboxes: [...this.sandboxes.values()], paused: [...this.paused.values()] }),
      status: () => ({
        hostId: this.id,
        memoryTotalBytes: 2n ** 34n,
        memoryAvailableBytes: 2n ** 34n,
        sandboxCount: this.sandboxes.size,
        sandboxCapacity: this.capacity,
        engines: this.engines,
        cpuCount: 8,
        cpuUsedPct: 12.6,
        allocatedCpuCount: 2,
        allocatedMemoryBytes: 2n ** 30n,
        machine: {
          ...{ cpuFamily: '6', cpuModel: '143' },
          ...{ cpuModelName: 'A processor', cpuArchitecture: 'x86_64' },
        },
        disks: [
          {
            ...{ mountPoint: '/', device: '/dev/vda1', fileSystemType: 'ext4' },
            ...{ usedBytes: 2n ** 30n, totalBytes: 2n ** 34n },
          },
        ],
      }),
      watch: (_request, context) => {
        const synced = create(HostEventSchema, { event: { case: 'synced', value: {} } })
        return this.#stream(this.#watchers, [synced], context.signal)
      },
      collectLogs: (_request, context) => {
        const batches = this.#stream(this.#collectors, [], context.signal)
        this.collects++
        return batches
      },
    }
  }

  async *#stream<T>(readers: Set<(item: T) => void>, queue: T[], signal: AbortSignal): AsyncGenerator<T> {
    let wake = (): void => {}
    let broken = false
    const reader = (item: T): void => {
      queue.push(item)
      wake()
    }
    const cut = (): void => {
      broken = true
      wake()
    }
    readers.add(reader)
    this.#cut.add(cut)
    signal.addEventListener('abort', () => wake(), { once: true })
    try {
      while (!signal.aborted) {
        yield* queue.splice(0)
        if (broken) throw new ConnectError('stream cut', Code.Unavailable)
        await new Promise<void>((resolve) => {
          wake = resolve
          if (queue.length > 0 || broken || signal.aborted) resolve()
        })
      }
    } finally {
      readers.delete(reader)
      this.#cut.delete(cut)
    }
  }
}
