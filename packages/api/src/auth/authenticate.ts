import { hash, timingSafeEqual } from 'node:crypto'
import { ApiError } from '@sandbox/contract/errors'
import type { KeyOwner } from '@sandbox/store/api-keys'
import type { Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { FastifyRequest, onRequestAsyncHookHandler } from 'fastify'
import type { ApiKeyCache } from './api-key-cache.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who calls; set on every route that needs an API key. */
    caller: KeyOwner | null
  }
}

const MAX_KEY_LENGTH = 256
/** Whoever may start nothing must be able to end what runs and costs. */
const OPEN_TO_BLOCKED: ReadonlySet<string> = new Set(['GET', 'HEAD', 'DELETE'])

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

/** What requests are checked against. */
export interface Gatekeeping {
  readonly keys: ApiKeyCache
  readonly store: Store
  /** Lets the operator act for any team; without one the operator's routes are closed. */
  readonly adminToken: string | undefined
}

const digest = (text: string): Buffer => hash('sha256', text, 'buffer')

/** The id without the prefix that some clients put before it. */
export const plainTeamId = (text: string): string => text.replace(/^prj_/, '')

/** Whether the request brings the operator's token. @throws ApiError 401 when it brings a wrong one */
function isOperator(request: FastifyRequest, adminToken: string | undefined): boolean {
  const given = request.headers['x-admin-token']
  if (typeof given !== 'string' || given === '') return false
  if (adminToken === undefined || !timingSafeEqual(digest(given), digest(adminToken))) {
    throw new ApiError('unauthorized', 'Invalid admin token.')
  }
  return true
}

/** The operator acts for the team of X-Team-ID. */
async function findTeamForOperator(request: FastifyRequest, store: Store): Promise<KeyOwner> {
  const given = request.headers['x-team-id']
  if (typeof given !== 'string')
    throw new ApiError('unauthorized', 'X-Team-ID is missing beside X-Admin-Token.')
  const team = await store.teams.find(plainTeamId(given))
  if (!team) throw new ApiError('unauthorized', 'No team has the id in X-Team-ID.')
  return { keyId: 'operator', team }
}

async function findOwner(request: FastifyRequest, keys: ApiKeyCache): Promise<KeyOwner> {
  const key = presentedKey(request)
  if (!key) throw new ApiError('unauthorized', 'API key is missing: send it in the X-API-KEY header.')
  const owner = key.length <= MAX_KEY_LENGTH ? await keys.findOwner(key) : undefined
  if (!owner) {
    throw new ApiError(
      'unauthorized',
      'Invalid API key, please ask the operator of this server for a valid one.',
    )
  }
  return owner
}

/** Refuses requests without a valid key, of banned teams, and of blocked ones all but reading and deleting. */
export function requireApiKey({ keys, store, adminToken }: Gatekeeping): onRequestAsyncHookHandler {
  return async (request) => {
    const isAdmin = isOperator(request, adminToken)
    const owner = isAdmin ? await findTeamForOperator(request, store) : await findOwner(request, keys)
    const { team } = owner
    if (team.isBanned && !isAdmin) throw new ApiError('forbidden', `Team '${team.name}' is banned.`)
    if (team.isBlocked && !OPEN_TO_BLOCKED.has(request.method) && !isAdmin) {
      throw new ApiError('forbidden', `Team '${team.name}' is blocked: it may only read and delete.`)
    }
    request.caller = owner
  }
}

/** Lets in only the operator. */
export function requireOperator(adminToken: string | undefined): onRequestAsyncHookHandler {
  return async (request) => {
    if (!isOperator(request, adminToken)) {
      throw new ApiError('unauthorized', 'This route needs the X-Admin-Token header.')
    }
  }
}
