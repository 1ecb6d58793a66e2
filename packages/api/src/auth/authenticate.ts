import { ApiError } from '@sandbox/contract/errors'
import type { KeyOwner } from '@sandbox/store/api-keys'
import type { Team } from '@sandbox/store/schema'
import type { FastifyRequest, onRequestAsyncHookHandler } from 'fastify'
import type { ApiKeyCache } from './api-key-cache.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who calls; set on every route that needs an API key. */
    caller: KeyOwner | null
  }
}

const MAX_KEY_LENGTH = 256

/** The team of an authenticated request. */
export function teamOf(request: FastifyRequest): Team {
  if (!request.caller) throw new Error(`route ${request.routeOptions.url} runs without authentication`)
  return request.caller.team
}

/** The API key of a request: `X-API-KEY`, or the same as a bearer token. */
export function presentedKey(request: FastifyRequest): string | undefined {
  const header = request.headers['x-api-key']
  if (typeof header === 'string' && header !== '') return header
  return /^Bearer (\S+)$/i.exec(request.headers.authorization ?? '')?.[1]
}

/** Refuses requests without a valid key, of banned teams, and changes by blocked ones. */
export function requireApiKey(keys: ApiKeyCache): onRequestAsyncHookHandler {
  return async (request) => {
    const key = presentedKey(request)
    if (!key) throw new ApiError('unauthorized', 'API key is missing: send it in the X-API-KEY header.')
    const owner = key.length <= MAX_KEY_LENGTH ? await keys.findOwner(key) : undefined
    if (!owner) {
      throw new ApiError(
        'unauthorized',
        'Invalid API key, please ask the operator of this server for a valid one.',
      )
    }
    const { team } = owner
    if (team.isBanned) throw new ApiError('forbidden', `Team '${team.name}' is banned.`)
    if (team.isBlocked && request.method !== 'GET') {
      throw new ApiError('forbidden', `Team '${team.name}' is blocked: it may read but not change anything.`)
    }
    request.caller = owner
  }
}
