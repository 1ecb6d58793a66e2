import { ApiError } from '@sandbox/contract/errors'
import { SandboxLogs, SandboxLogsQuery, SandboxLogsV2, SandboxLogsV2Query } from '@sandbox/contract/rest/logs'
import { LatestMetrics, LatestMetricsQuery, MetricRange, SandboxMetric } from '@sandbox/contract/rest/metrics'
import { SandboxParams } from '@sandbox/contract/rest/sandboxes'
import type { Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import { Type } from 'typebox'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import type { MetricsSampler } from '../observing/metrics-sampler.ts'
import type { SandboxLogs as LogStore } from '../observing/sandbox-logs.ts'
import { sandboxNotFound } from '../sandboxes/entries.ts'
import { parseSandboxId } from './requests.ts'
import { errors } from './responses.ts'

const MAX_LOGS = 1_000
const MAX_IDS = 100

export interface ObservationRouteParts {
  readonly store: Store
  readonly sampler: MetricsSampler
  readonly logs: LogStore
}

/** @throws ApiError 400 when the range is empty */
export function checkRange({ start, end }: MetricRange): void {
  if (start !== undefined && end !== undefined && start > end) {
    throw new ApiError('badRequest', 'start must not be after end')
  }
}

/** Routes that read metrics and logs of sandboxes. */
export function observationRoutes(app: ApiApp, parts: ObservationRouteParts): void {
  metricRoutes(app, parts)
  logRoutes(app, parts)
}

function metricRoutes(app: ApiApp, { store, sampler }: ObservationRouteParts): void {
  app.get(
    '/sandboxes/metrics',
    {
      schema: {
        tags: ['metrics'],
        querystring: LatestMetricsQuery,
        response: { 200: LatestMetrics, ...errors(400, 401) },
      },
    },
    async (request) => {
      const ids = request.query.sandbox_ids.split(',').map(parseSandboxId)
      if (ids.length > MAX_IDS) throw new ApiError('badRequest', `At most ${MAX_IDS} sandbox_ids at once`)
      if (new Set(ids).size < ids.length) throw new ApiError('badRequest', 'sandbox_ids must be different')
      const own = await store.sandboxes.findOwned(teamOf(request).id, ids)
      return { sandboxes: await sampler.latest(own) }
    },
  )
  app.get(
    '/sandboxes/:sandboxID/metrics',
    {
      schema: {
        tags: ['metrics'],
        params: SandboxParams,
        querystring: MetricRange,
        response: { 200: Type.Array(SandboxMetric), ...errors(400, 401, 404) },
      },
    },
    async (request) => {
      const id = parseSandboxId(request.params.sandboxID)
      checkRange(request.query)
      if (!(await store.sandboxes.find(teamOf(request).id, id))) throw sandboxNotFound(id)
      return sampler.read(id, request.query)
    },
  )
}

function logRoutes(app: ApiApp, { store, logs }: ObservationRouteParts): void {
  /** Lines of an ended sandbox can be read as long as they are kept. */
  const checkAccess = async (team: Team, id: string): Promise<void> => {
    if (await store.sandboxes.find(team.id, id)) return
    if (!(await logs.has(team.id, id))) throw sandboxNotFound(id)
  }
  app.get(
    '/sandboxes/:sandboxID/logs',
    {
      schema: {
        tags: ['logs'],
        params: SandboxParams,
        querystring: SandboxLogsQuery,
        response: { 200: SandboxLogs, ...errors(400, 401, 404) },
      },
    },
    async (request) => {
      const id = parseSandboxId(request.params.sandboxID)
      await checkAccess(teamOf(request), id)
      const { start, limit = MAX_LOGS } = request.query
      const logEntries = await logs.read(id, { limit, ...(start === undefined ? {} : { cursor: start }) })
      const lines = logEntries.map(({ timestamp, level, message, fields }) => ({
        timestamp,
        line: JSON.stringify({ ...fields, level, message }),
      }))
      return { logs: lines, logEntries }
    },
  )
  app.get(
    '/v2/sandboxes/:sandboxID/logs',
    {
      schema: {
        tags: ['logs'],
        params: SandboxParams,
        querystring: SandboxLogsV2Query,
        response: { 200: SandboxLogsV2, ...errors(400, 401, 404) },
      },
    },
    async (request) => {
      const id = parseSandboxId(request.params.sandboxID)
      await checkAccess(teamOf(request), id)
      return { logs: await logs.read(id, { direction: 'backward', ...request.query }) }
    },
  )
}
