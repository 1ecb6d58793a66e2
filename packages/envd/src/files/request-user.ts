import { HttpError } from '../http/exchange.ts'
import type { AgentState } from '../state.ts'
import { errorText } from '../system/error-text.ts'
import { resolvePath } from '../system/paths.ts'
import type { User } from '../system/users.ts'

/** The user of a file request: explicit or default. @throws HttpError 400 without one, 401 when unknown */
export function fileUser(state: AgentState, username: string | undefined): User {
  const name = username ?? state.defaultUser
  if (username === undefined && !name) throw new HttpError(400, 'username not provided')
  const user = state.users.find(name)
  if (!user) {
    throw new HttpError(401, `error looking up user '${name}': user: unknown user ${name}`)
  }
  return user
}

/** @throws HttpError 400 with `context` when the path cannot be resolved */
export function filePath(path: string, user: User, state: AgentState, context: string): string {
  try {
    return resolvePath(path, user, state.defaultWorkdir)
  } catch (error) {
    throw new HttpError(400, `${context}: ${errorText(error)}`)
  }
}
