import { ErrorBody } from '@sandbox/contract/rest/errors'
import { Type } from 'typebox'

type ErrorStatus = 400 | 401 | 403 | 404 | 409 | 422 | 429 | 500 | 503 | 504

/** Response schemas of the errors that a route answers. */
export function errors<const Status extends ErrorStatus>(...statuses: readonly Status[]) {
  return Object.fromEntries(statuses.map((status) => [status, ErrorBody])) as Record<Status, typeof ErrorBody>
}

/** An answer without a body. */
export const NoContent = Type.Null({ description: 'No content' })
