import { Code, ConnectError } from '@connectrpc/connect'
import type { AgentState } from './state.ts'
import type { User } from './system/users.ts'

/** Name in a Basic authorization header, undefined without one. */
export function basicUsername(authorization: string | null): string | undefined {
  const match = /^basic\s+(\S+)$/i.exec(authorization ?? '')
  if (!match?.[1]) return undefined
  const [name] = Buffer.from(match[1], 'base64').toString('utf8').split(':')
  return name
}

/**
 * The user an RPC acts as: the one in the header or the default.
 *
 * @throws ConnectError unauthenticated when there is no such user
 */
export function requestUser(state: AgentState, headers: Headers): User {
  const named = basicUsername(headers.get('Authorization'))
  if (named === undefined && !state.defaultUser) {
    throw new ConnectError('no user specified', Code.Unauthenticated)
  }
  const user = state.users.find(named ?? state.defaultUser)
  if (user) return user
  const text = named === undefined ? `default user: '${state.defaultUser}'` : `username: '${named}'`
  throw new ConnectError(`invalid ${text}`, Code.Unauthenticated)
}

/** Rejects a header that names an unknown user, also on calls that need no user. */
export function checkNamedUser(state: AgentState, headers: Headers): void {
  if (basicUsername(headers.get('Authorization')) !== undefined) requestUser(state, headers)
}
