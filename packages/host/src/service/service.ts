import { create } from '@bufbuild/protobuf'
import { type Timestamp, timestampDate, timestampFromMs } from '@bufbuild/protobuf/wkt'
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect'
import {
  type EngineStatus,
  type HostEvent,
  HostEventSchema,
  type Host as HostService,
  OnEnd,
  type PausedSandbox,
  PausedSandboxSchema,
  type SandboxLogBatch,
  SandboxLogBatchSchema,
  type SandboxMetrics,
  SandboxMetricsSchema,
  SandboxState,
  type SandboxStatus,
  SandboxStatusSchema,
  type StartRequest,
  type StatusResponse,
  StatusResponseSchema,
} from '@sandbox/contract/gen/host/host_pb'
import { buildEvents } from '../builds/build-events.ts'
import type { Builder } from '../builds/builder.ts'
import { askedLimits } from '../cells/limits.ts'
import type { Limits } from '../engines/engine.ts'
import type { LogBatch, LogRelay } from '../guest-logs/log-relay.ts'
import type { DiskUse, MachineFacts } from '../machine-gauge.ts'
import { parseNetworkPolicy } from '../network/policy.ts'
import type { SandboxEvent } from '../sandboxes/events.ts'
import type { Metrics, SandboxUsage } from '../sandboxes/metrics.ts'
import type { SandboxView } from '../sandboxes/sandbox-view.ts'
import type { Sandboxes } from '../sandboxes/sandboxes.ts'
import type { KeptSnapshots, Paused } from '../snapshots/kept-snapshots.ts'
import type { StartRequest as StartCommand } from '../starting/start.ts'
import { askedIsolation } from './asked-isolation.ts'
import { connectError } from './connect-error.ts'

/** The Connect service of this machine: translates between wire and rooms, and errors to codes. No policy here. */

export interface ServiceParts {
  sandboxes: Sandboxes
  kept: KeptSnapshots
  metrics: Metrics
  relay: LogRelay
  builder: Builder
  defaultLimits: Limits
  status: () => Promise<MachineStatus> | MachineStatus
}

export interface MachineStatus {
  hostId: string
  memoryTotalBytes: number
  memoryAvailableBytes: number
  cpuCount: number
  sandboxCapacity: number
  engines: Pick<EngineStatus, 'name' | 'usable' | 'version' | 'detail' | 'remedy'>[]
  warmSnapshotIds: string[]
  machine: MachineFacts
  allocated: { cpuCount: number; memoryMib: number }
  cpuUsedPct: number
  disks: DiskUse[]
}

export function hostService(parts: ServiceParts): Partial<ServiceImpl<typeof HostService>> {
  const { sandboxes, kept, metrics, relay, builder, defaultLimits } = parts
  return {
    start: (request) =>
      translated(async () => {
        const { view, fromPool } = await sandboxes.start(startCommand(request))
        return { sandbox: statusOf(view), fromPool }
      }),
    stop: ({ sandboxId }) =>
      translated(async () => {
        await sandboxes.kill(sandboxId)
        return {}
      }),
    setEnd: ({ sandboxId, endAt, extendOnly }) =>
      translated(() => {
        const endAtMs = sandboxes.setEnd(sandboxId, milliseconds(endAt, 'end_at'), extendOnly)
        return { endAt: timestampFromMs(endAtMs) }
      }),
    setNetwork: ({ sandboxId, networkJson, allowInternetAccess }) =>
      translated(async () => {
        await sandboxes.applyNetwork(sandboxId, parseNetworkPolicy(networkJson, allowInternetAccess))
        return {}
      }),
    pause: ({ sandboxId, memory = true, requireHealthyGuest }) =>
      translated(async () => {
        const needsAgent = requireHealthyGuest || !memory
        return { paused: pausedMessage(await sandboxes.pause(sandboxId, { memory, needsAgent })) }
      }),
    snapshot: ({ sandboxId, snapshotId, memory = true }) =>
      translated(async () => {
        const snapshot = await sandboxes.snapshot(sandboxId, snapshotId, memory)
        const sizeBytes = BigInt((snapshot.memory?.sizeBytes ?? 0) + (snapshot.upper.inheritedBytes ?? 0))
        return { snapshotId, hasMemory: snapshot.memory !== undefined, sizeBytes }
      }),
    deleteSnapshot: ({ snapshotId }) =>
      translated(async () => {
        await kept.delete(snapshotId)
        return {}
      }),
    metrics: ({ sandboxIds }) =>
      translated(async () => ({ metrics: (await metrics.read(sandboxIds)).map(metricsMessage) })),
    list: () => ({ sandboxes: sandboxes.list().map(statusOf), paused: kept.paused().map(pausedMessage) }),
    async *watch(_request, context) {
      for await (const event of sandboxes.events.watch(context.signal)) yield eventOf(event)
    },
    async *collectLogs(_request, context) {
      for await (const batch of relay.collect(context.signal)) yield batchMessage(batch)
    },
    status: () => translated(async () => statusAnswer(await parts.status(), sandboxes.count)),
    build: (request, context) => buildEvents(builder, request, defaultLimits, context.signal),
  }
}

function startCommand(request: StartRequest): StartCommand {
  const { sandboxId, snapshotId, config } = request
  if (!/^[a-z0-9]{1,64}$/.test(sandboxId))
    throw new ConnectError('sandbox_id must be [a-z0-9]', Code.InvalidArgument)
  return {
    sandboxId,
    snapshotId,
    templateId: config?.templateId ?? '',
    limits: askedLimits(config?.resources),
    envVars: config?.envVars ?? {},
    envdAccessToken: config?.envdAccessToken,
    network: parseNetworkPolicy(config?.networkJson ?? '', config?.allowInternetAccess ?? true),
    endAtMs: milliseconds(request.endAt, 'end_at'),
    onEnd: request.onEnd === OnEnd.PAUSE ? 'pause' : 'kill',
    skipPool: request.skipPool,
    memory: request.memory ?? true,
    consumesSnapshot: request.consumeSnapshot,
    pauseMemory: request.pauseMemory ?? true,
    isolation: askedIsolation(request.isolation),
  }
}

const pausedMessage = (paused: Paused): PausedSandbox =>
  create(PausedSandboxSchema, { ...paused, pausedAt: timestampFromMs(paused.pausedAtMs) })

const metricsMessage = (usage: SandboxUsage): SandboxMetrics =>
  create(SandboxMetricsSchema, {
    sandboxId: usage.sandboxId,
    at: timestampFromMs(usage.atMs),
    cpuCount: usage.cpuCount,
    cpuUsedPct: usage.cpuUsedPct,
    memoryUsedBytes: BigInt(usage.memoryUsedBytes),
    memoryTotalBytes: BigInt(usage.memoryTotalBytes),
    memoryCacheBytes: BigInt(usage.memoryCacheBytes),
    diskUsedBytes: BigInt(usage.diskUsedBytes),
    diskTotalBytes: BigInt(usage.diskTotalBytes),
  })

const batchMessage = ({ sandboxId, lines }: LogBatch): SandboxLogBatch =>
  create(SandboxLogBatchSchema, {
    sandboxId,
    lines: lines.map(({ atMs, level, message, fields }) => ({
      at: timestampFromMs(atMs),
      level,
      message,
      fields: { ...fields },
    })),
  })

function milliseconds(time: Timestamp | undefined, field: string): number {
  if (!time) throw new ConnectError(`${field} is missing`, Code.InvalidArgument)
  return timestampDate(time).getTime()
}

/** A sandbox is public while it runs or ends; one that starts is not listed yet. */
const PUBLIC_STATES = {
  starting: SandboxState.UNSPECIFIED,
  running: SandboxState.RUNNING,
  pausing: SandboxState.PAUSING,
  snapshotting: SandboxState.SNAPSHOTTING,
  killing: SandboxState.KILLING,
  gone: SandboxState.UNSPECIFIED,
} as const

const statusOf = (view: SandboxView): SandboxStatus =>
  create(SandboxStatusSchema, {
    sandboxId: view.sandboxId,
    state: PUBLIC_STATES[view.state],
    address: view.address,
    startedAt: timestampFromMs(view.startedAtMs),
    endAt: timestampFromMs(view.endAtMs),
    snapshotId: view.snapshotId,
    engine: view.engine,
  })

function eventOf(event: SandboxEvent): HostEvent {
  switch (event.kind) {
    case 'synced':
      return create(HostEventSchema, { event: { case: 'synced', value: {} } })
    case 'started':
      return create(HostEventSchema, { event: { case: 'started', value: statusOf(event.sandbox) } })
    case 'pausing':
      return create(HostEventSchema, { event: { case: 'pausing', value: { sandboxId: event.sandboxId } } })
    case 'pauseFailed': {
      const { sandboxId, reason, retryAtMs } = event
      const retryAt = retryAtMs === undefined ? {} : { retryAt: timestampFromMs(retryAtMs) }
      return create(HostEventSchema, {
        event: { case: 'pauseFailed', value: { sandboxId, reason, ...retryAt } },
      })
    }
    case 'ended': {
      const { sandboxId, reason, atMs, paused } = event
      const value = {
        sandboxId,
        reason,
        at: timestampFromMs(atMs),
        ...(paused ? { paused: pausedMessage(paused) } : {}),
      }
      return create(HostEventSchema, { event: { case: 'ended', value } })
    }
  }
}

const statusAnswer = ({ allocated, disks, ...status }: MachineStatus, sandboxCount: number): StatusResponse =>
  create(StatusResponseSchema, {
    ...status,
    memoryTotalBytes: BigInt(status.memoryTotalBytes),
    memoryAvailableBytes: BigInt(status.memoryAvailableBytes),
    allocatedCpuCount: Math.ceil(allocated.cpuCount),
    allocatedMemoryBytes: BigInt(allocated.memoryMib) * 2n ** 20n,
    disks: disks.map(({ usedBytes, totalBytes, ...disk }) => ({
      ...disk,
      usedBytes: BigInt(usedBytes),
      totalBytes: BigInt(totalBytes),
    })),
    sandboxCount,
  })

async function translated<T>(work: () => T | Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw connectError(error)
  }
}
