import { ApiError } from '@sandbox/contract/errors'
import {
  MaxTeamMetric,
  MaxTeamMetricQuery,
  MetricRange,
  TeamMetric,
  TeamParams,
} from '@sandbox/contract/rest/metrics'
import { Team } from '@sandbox/contract/rest/teams'
import type { FastifyRequest } from 'fastify'
import { Type } from 'typebox'
import { plainTeamId, presentedKey, teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import type { TeamMetrics } from '../observing/team-metrics.ts'
import { checkRange } from './observations.ts'
import { errors } from './responses.ts'

/** @throws ApiError 403 */
function checkOwnTeam(request: FastifyRequest, teamId: string): void {
  if (plainTeamId(teamId) !== teamOf(request).id) {
    throw new ApiError('forbidden', 'You are not authorized to access the metrics of this team')
  }
}

/** Routes of the caller's team; the CLI asks GET /teams at login. */
export function teamRoutes(app: ApiApp, metrics: TeamMetrics): void {
  app.get(
    '/teams',
    { schema: { tags: ['teams'], response: { 200: Type.Array(Team), ...errors(401) } } },
    async (request) => {
      const { id, name } = teamOf(request)
      return [{ teamID: id, name, apiKey: presentedKey(request) ?? '', isDefault: true }]
    },
  )
  app.get(
    '/teams/:teamID/metrics',
    {
      schema: {
        tags: ['metrics'],
        params: TeamParams,
        querystring: MetricRange,
        response: { 200: Type.Array(TeamMetric), ...errors(400, 401, 403) },
      },
    },
    async (request) => {
      const { teamID } = request.params
      checkOwnTeam(request, teamID)
      checkRange(request.query)
      return metrics.read(teamOf(request).id, request.query)
    },
  )
  app.get(
    '/teams/:teamID/metrics/max',
    {
      schema: {
        tags: ['metrics'],
        params: TeamParams,
        querystring: MaxTeamMetricQuery,
        response: { 200: MaxTeamMetric, ...errors(400, 401, 403) },
      },
    },
    async (request) => {
      const { metric, ...range } = request.query
      checkOwnTeam(request, request.params.teamID)
      checkRange(range)
      const field = metric === 'concurrent_sandboxes' ? 'concurrentSandboxes' : 'sandboxStartRate'
      const samples = await metrics.read(teamOf(request).id, range)
      const top = samples.reduce<TeamMetric | undefined>(
        (best, sample) => (best && best[field] >= sample[field] ? best : sample),
        undefined,
      )
      const at = top?.timestamp ?? new Date().toISOString()
      return {
        timestamp: at,
        timestampUnix: Math.floor(Date.parse(at) / 1000),
        value: top?.[field] ?? 0,
      }
    },
  )
}
