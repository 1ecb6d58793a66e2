import { ApiError } from '@sandbox/contract/errors'
import { ApiKeyName, ApiKeyParams, CreatedTeamApiKey, TeamApiKey } from '@sandbox/contract/rest/api-keys'
import type { ApiKey } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import { type Static, Type } from 'typebox'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import { createApiKey, deleteApiKey } from '../operator.ts'
import { errors, NoContent } from './responses.ts'

export const keyNotFound = (id: string): ApiError => new ApiError('notFound', `API key '${id}' not found`)

/** A key as it is shown after its creation. */
export function toTeamApiKey(key: ApiKey): Static<typeof TeamApiKey> {
  return {
    id: key.id,
    name: key.name,
    mask: {
      prefix: key.prefix,
      valueLength: key.valueLength,
      maskedValuePrefix: key.maskedValuePrefix,
      maskedValueSuffix: key.maskedValueSuffix,
    },
    createdAt: new Date(key.createdAt).toISOString(),
    createdBy: null,
    lastUsed: key.lastUsedAt === null ? null : new Date(key.lastUsedAt).toISOString(),
  }
}

/** Routes of a team's own API keys. */
export function apiKeyRoutes(app: ApiApp, store: Store): void {
  app.get(
    '/api-keys',
    { schema: { tags: ['api-keys'], response: { 200: Type.Array(TeamApiKey), ...errors(401) } } },
    async (request) => (await store.apiKeys.list(teamOf(request).id)).map(toTeamApiKey),
  )
  app.post(
    '/api-keys',
    {
      schema: {
        tags: ['api-keys'],
        body: ApiKeyName,
        response: { 201: CreatedTeamApiKey, ...errors(400, 401) },
      },
    },
    async (request, reply) => {
      const { stored, key } = await createApiKey(store, teamOf(request).id, request.body.name)
      return reply.code(201).send({ ...toTeamApiKey(stored), key })
    },
  )
  app.patch(
    '/api-keys/:apiKeyID',
    {
      schema: {
        tags: ['api-keys'],
        params: ApiKeyParams,
        body: ApiKeyName,
        response: { 200: NoContent, ...errors(400, 401, 404) },
      },
    },
    async (request, reply) => {
      const { apiKeyID: id } = request.params
      if (!(await store.apiKeys.rename(teamOf(request).id, id, request.body.name))) throw keyNotFound(id)
      return reply
        .code(200)
        .serializer(() => '')
        .send(null)
    },
  )
  app.delete(
    '/api-keys/:apiKeyID',
    {
      schema: {
        tags: ['api-keys'],
        params: ApiKeyParams,
        response: { 204: NoContent, ...errors(401, 404) },
      },
    },
    async (request, reply) => {
      const { apiKeyID: id } = request.params
      if (!(await deleteApiKey(store, teamOf(request).id, id))) throw keyNotFound(id)
      return reply.code(204).send(null)
    },
  )
}
