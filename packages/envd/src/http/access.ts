import { createHash } from 'node:crypto'
import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'
import { type AgentState, equalSecrets } from '../state.ts'
import { type Exchange, HttpError, header, type NodeServerRequest } from './exchange.ts'

const TOKEN_HEADER = 'x-access-token'
/** Paths for the host alone; the edge refuses them. */
export const INTERNAL_PATHS = ['/init', '/init/trust', '/start', '/freeze', '/unfreeze'] as const
/** These check by themselves: a signature, or the caller's address. */
const WITHOUT_TOKEN = new Set([
  'GET/health',
  'GET/files',
  'POST/files',
  ...INTERNAL_PATHS.map((path) => `POST${path}`),
])
const UNAUTHORIZED = 'unauthorized access, please provide a valid access token or method signing if supported'

/** @throws HttpError 401 when a token is set and the request does not carry it */
export function requireToken(state: AgentState, { request, path }: Exchange): void {
  if (!state.hasToken || WITHOUT_TOKEN.has(`${request.method}${path}`)) return
  if (!state.tokenEquals(header(request, TOKEN_HEADER))) throw new HttpError(401, UNAUTHORIZED)
}

/**
 * Requests of the host come from outside of the sandbox. Code inside may make them only with the token, or as long
 * as none is set.
 *
 * @throws HttpError 401
 */
export function requireHost(state: AgentState, request: NodeServerRequest, token: string | undefined): void {
  if (isProxied(request)) throw new HttpError(404, 'not found')
  if (!state.hasToken || state.tokenEquals(token) || isFromOutside(request)) return
  throw new HttpError(401, token ? 'access token validation failed' : 'access token reset not authorized')
}

/** The token header of a request. */
export const tokenOf = (request: NodeServerRequest): string | undefined => header(request, TOKEN_HEADER)

/** What came through the edge names a sandbox; the host itself calls an address. */
function isProxied(request: NodeServerRequest): boolean {
  const authority = header(request, ':authority') ?? header(request, 'host') ?? ''
  const name = authority.replace(/:\d+$/, '').replace(/^\[|\]$/g, '')
  const isAddress = isIP(name) !== 0 || name === 'localhost'
  return !isAddress || 'e2b-sandbox-id' in request.headers || 'x-forwarded-for' in request.headers
}

function isFromOutside(request: NodeServerRequest): boolean {
  const peer = request.socket.remoteAddress?.replace(/^::ffff:/, '')
  if (!peer || peer === '::1' || peer.startsWith('127.')) return false
  return !Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ address }) => address === peer),
  )
}

/**
 * Access to `/files`: token header, or a signature of the query. The signature is checked before its expiry.
 *
 * @throws HttpError 401 with the text that clients know
 */
export function requireTokenOrSignature(
  state: AgentState,
  { request, query }: Exchange,
  operation: 'read' | 'write',
): void {
  const { token } = state
  if (token === undefined) return
  const sent = header(request, TOKEN_HEADER)
  if (sent) {
    if (state.tokenEquals(sent)) return
    throw new HttpError(401, 'access token present in header but does not match')
  }
  const signature = query.get('signature')
  if (signature === null) throw new HttpError(401, 'missing signature query parameter')
  const expiration = expirationOf(query)
  const parts = [query.get('path') ?? '', operation, query.get('username') ?? '', token]
  if (expiration !== undefined) parts.push(String(expiration))
  const digest = createHash('sha256').update(parts.join(':')).digest('base64').replace(/=+$/, '')
  if (!equalSecrets(`v1_${digest}`, signature)) throw new HttpError(401, 'invalid signature')
  if (expiration !== undefined && expiration < Math.floor(Date.now() / 1000)) {
    throw new HttpError(401, 'signature is already expired')
  }
}

function expirationOf(query: URLSearchParams): number | undefined {
  const text = query.get('signature_expiration')
  if (text === null) return undefined
  if (/^-?\d{1,15}$/.test(text)) return Number(text)
  throw new HttpError(400, 'Invalid format for parameter signature_expiration: a number is expected')
}
