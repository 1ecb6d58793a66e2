import { ApiError } from '@sandbox/contract/errors'
import type { DiskStatus } from '@sandbox/contract/gen/host/host_pb'
import { Node, NodeDetail, NodeParams, NodeStatusChange } from '@sandbox/contract/rest/nodes'
import { Type } from 'typebox'
import type { ApiApp } from '../http/app.ts'
import type { Hosts, HostView } from '../sandboxes/hosts.ts'
import { errors, NoContent } from './responses.ts'

const security = [{ AdminApiKeyAuth: [] }]
/** There is one cluster; its id is the one that E2B gives to what is in none. */
const CLUSTER = '00000000-0000-0000-0000-000000000000'

/** What this server does not know of a machine is empty or 0; nothing here uses huge pages. */
function toNode({ id, status, capacity, counts, changedAt }: HostView): Node {
  const total = Number(capacity?.memoryTotalBytes ?? 0)
  const { cpuFamily = '', cpuModel = '', cpuModelName = '', cpuArchitecture = '' } = capacity?.machine ?? {}
  const engine = capacity?.engines.find(({ usable }) => usable)
  return {
    id,
    serviceInstanceID: id,
    clusterID: CLUSTER,
    version: engine?.version ?? '',
    commit: '',
    status,
    statusChangedAt: new Date(changedAt).toISOString(),
    sandboxCount: capacity?.sandboxCount ?? 0,
    sandboxStartingCount: counts.starting,
    createSuccesses: counts.started,
    createFails: counts.failed,
    machineInfo: { cpuFamily, cpuModel, cpuModelName, cpuArchitecture },
    metrics: {
      allocatedCPU: capacity?.allocatedCpuCount ?? 0,
      allocatedMemoryBytes: Number(capacity?.allocatedMemoryBytes ?? 0),
      cpuPercent: Math.round(capacity?.cpuUsedPct ?? 0),
      cpuCount: capacity?.cpuCount ?? 0,
      memoryUsedBytes: Math.max(0, total - Number(capacity?.memoryAvailableBytes ?? 0)),
      memoryTotalBytes: total,
      hugePagesTotal: 0,
      hugePagesUsed: 0,
      hugePagesReserved: 0,
      hugePageSizeBytes: 0,
      disks: (capacity?.disks ?? []).map(toDisk),
    },
  }
}

const toDisk = ({ mountPoint, device, fileSystemType, usedBytes, totalBytes }: DiskStatus) => ({
  ...{ mountPoint, device, filesystemType: fileSystemType },
  usedBytes: Number(usedBytes),
  totalBytes: Number(totalBytes),
})

function toDetail(view: HostView): NodeDetail {
  const { sandboxStartingCount: _listOnly, ...detail } = toNode(view)
  return detail
}

/** Routes of the operator, over the machines. */
export function nodeRoutes(app: ApiApp, hosts: Hosts): void {
  const find = (id: string): HostView => {
    const view = hosts.views().find((candidate) => candidate.id === id)
    if (!view) throw new ApiError('notFound', `Node '${id}' not found`)
    return view
  }
  app.get(
    '/nodes',
    { schema: { tags: ['admin'], security, response: { 200: Type.Array(Node), ...errors(401) } } },
    async () => hosts.views().map(toNode),
  )
  app.get(
    '/nodes/:nodeID',
    {
      schema: {
        tags: ['admin'],
        security,
        params: NodeParams,
        response: { 200: NodeDetail, ...errors(401, 404) },
      },
    },
    async (request) => toDetail(find(request.params.nodeID)),
  )
  app.post(
    '/nodes/:nodeID',
    {
      schema: {
        tags: ['admin'],
        security,
        params: NodeParams,
        body: NodeStatusChange,
        response: { 204: NoContent, ...errors(400, 401, 404) },
      },
    },
    async (request, reply) => {
      const { id } = find(request.params.nodeID)
      const { status } = request.body
      if (status !== 'ready' && status !== 'draining' && status !== 'standby') {
        throw new ApiError(
          'badRequest',
          `A node becomes '${status}' by itself: set ready, draining or standby`,
        )
      }
      hosts.setAcceptance(id, status)
      return reply.code(204).send(null)
    },
  )
}
