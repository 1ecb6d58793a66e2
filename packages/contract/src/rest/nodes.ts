import { type Static, Type } from 'typebox'

/** Machines, as the operator sees them. */

export const NodeStatus = Type.Union([
  Type.Literal('ready'),
  Type.Literal('draining'),
  Type.Literal('connecting'),
  Type.Literal('unhealthy'),
  Type.Literal('standby'),
])
export type NodeStatus = Static<typeof NodeStatus>

const Disk = Type.Object({
  mountPoint: Type.String(),
  device: Type.String(),
  filesystemType: Type.String(),
  usedBytes: Type.Integer(),
  totalBytes: Type.Integer(),
})

const shared = {
  id: Type.String(),
  serviceInstanceID: Type.String(),
  clusterID: Type.String(),
  version: Type.String(),
  commit: Type.String(),
  status: NodeStatus,
  statusChangedAt: Type.String({ format: 'date-time' }),
  sandboxCount: Type.Integer(),
  createSuccesses: Type.Integer(),
  createFails: Type.Integer(),
  machineInfo: Type.Object({
    cpuFamily: Type.String(),
    cpuModel: Type.String(),
    cpuModelName: Type.String(),
    cpuArchitecture: Type.String(),
  }),
  metrics: Type.Object({
    allocatedCPU: Type.Integer(),
    allocatedMemoryBytes: Type.Integer(),
    cpuPercent: Type.Integer(),
    cpuCount: Type.Integer(),
    memoryUsedBytes: Type.Integer(),
    memoryTotalBytes: Type.Integer(),
    hugePagesTotal: Type.Integer(),
    hugePagesUsed: Type.Integer(),
    hugePagesReserved: Type.Integer(),
    hugePageSizeBytes: Type.Integer(),
    disks: Type.Array(Disk),
  }),
}

/** An element of GET /nodes. */
export const Node = Type.Object({ ...shared, sandboxStartingCount: Type.Integer() })
export type Node = Static<typeof Node>

/** What GET /nodes/{nodeID} answers. */
export const NodeDetail = Type.Object(shared)
export type NodeDetail = Static<typeof NodeDetail>

export const NodeParams = Type.Object({ nodeID: Type.String({ minLength: 1 }) })

/** Body of POST /nodes/{nodeID}. */
export const NodeStatusChange = Type.Object({
  status: NodeStatus,
  clusterID: Type.Optional(Type.String()),
})
