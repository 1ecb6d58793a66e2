import { ApiError } from '@sandbox/contract/errors'

/** Where the next page goes on. */
export interface Position {
  readonly startedAt: number
  readonly id: string
}

/** What sandboxes, templates and builds have as ids. */
const ID = /^[A-Za-z0-9-]+$/

export type Order = 'asc' | 'desc'

/** An opaque token for the page after `position`. */
export function nextToken(position: Position, order: Order): string {
  const suffix = order === 'asc' ? '__asc' : ''
  return Buffer.from(`${new Date(position.startedAt).toISOString()}__${position.id}${suffix}`).toString(
    'base64url',
  )
}

/** @throws ApiError 400 for a token that is broken or of the other order */
export function parseNextToken(token: string, order: Order): Position {
  const [time = '', id = '', suffix, ...rest] = Buffer.from(token, 'base64url').toString().split('__')
  const startedAt = Date.parse(time)
  const orderMatches = suffix === (order === 'asc' ? 'asc' : undefined)
  if (Number.isNaN(startedAt) || !ID.test(id) || !orderMatches || rest.length > 0) {
    throw new ApiError('badRequest', 'Invalid next token')
  }
  return { startedAt, id }
}
