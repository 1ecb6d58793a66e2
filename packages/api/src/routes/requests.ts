import { ApiError } from '@sandbox/contract/errors'
import type { preValidationAsyncHookHandler } from 'fastify'

/** Takes the legacy `-clientID` off an id. @throws ApiError 400 */
export function parseSandboxId(text: string): string {
  const match = /^([a-z0-9]+)(?:-[a-z0-9]+)?$/.exec(text)
  if (!match) throw new ApiError('badRequest', 'Invalid sandbox ID')
  return match[1]!
}

/** Lets a body be absent where every field of it has a default. */
export const emptyBodyAsObject: preValidationAsyncHookHandler = async (request) => {
  request.body ??= {}
}
