import { ApiError } from '@sandbox/contract/errors'
import { AdminApiKeyParams, KillResult, RunningCounts } from '@sandbox/contract/rest/admin'
import { ApiKeyName, CreatedTeamApiKey } from '@sandbox/contract/rest/api-keys'
import { TeamParams } from '@sandbox/contract/rest/metrics'
import type { Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import { plainTeamId } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import { createApiKey, deleteApiKey } from '../operator.ts'
import type { Lifecycle } from '../sandboxes/lifecycle.ts'
import type { RunningSandboxes } from '../sandboxes/running.ts'
import { keyNotFound, toTeamApiKey } from './api-keys.ts'
import { errors, NoContent } from './responses.ts'

export interface AdminRouteParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly lifecycle: Lifecycle
}

const security = [{ AdminApiKeyAuth: [] }]

/** Routes of the operator, over all teams. */
export function adminRoutes(app: ApiApp, { store, running, lifecycle }: AdminRouteParts): void {
  const findTeam = async (id: string): Promise<Team> => {
    const team = await store.teams.find(plainTeamId(id))
    if (!team) throw new ApiError('notFound', `Team '${id}' not found`)
    return team
  }

  app.post(
    '/admin/teams/:teamID/sandboxes/kill',
    {
      schema: {
        tags: ['admin'],
        security,
        params: TeamParams,
        response: { 200: KillResult, ...errors(401, 404) },
      },
    },
    async (request) => {
      const team = await findTeam(request.params.teamID)
      const rows = await store.sandboxes.listRunningOfTeam(team.id)
      const kills = await Promise.allSettled(rows.map(({ id }) => lifecycle.kill(team, id)))
      const failedCount = kills.filter(({ status }) => status === 'rejected').length
      return { killedCount: rows.length - failedCount, failedCount }
    },
  )
  app.get(
    '/admin/sandboxes/running-counts',
    { schema: { tags: ['admin'], security, response: { 200: RunningCounts, ...errors(401) } } },
    async () => Object.fromEntries(running.counts),
  )
  app.post(
    '/admin/teams/:teamID/api-keys',
    {
      schema: {
        tags: ['admin'],
        security,
        params: TeamParams,
        body: ApiKeyName,
        response: { 201: CreatedTeamApiKey, ...errors(400, 401, 404) },
      },
    },
    async (request, reply) => {
      const team = await findTeam(request.params.teamID)
      const { stored, key } = await createApiKey(store, team.id, request.body.name)
      return reply.code(201).send({ ...toTeamApiKey(stored), key })
    },
  )
  app.delete(
    '/admin/teams/:teamID/api-keys/:apiKeyID',
    {
      schema: {
        tags: ['admin'],
        security,
        params: AdminApiKeyParams,
        response: { 204: NoContent, ...errors(401, 404) },
      },
    },
    async (request, reply) => {
      const team = await findTeam(request.params.teamID)
      const { apiKeyID } = request.params
      if (!(await deleteApiKey(store, team.id, apiKeyID))) throw keyNotFound(apiKeyID)
      return reply.code(204).send(null)
    },
  )
}
