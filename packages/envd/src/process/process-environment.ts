import type { User } from '../system/users.ts'

/** Environment of a user's process: the agent's PATH, who the user is, the sandbox's variables, the request's. */
export function processEnvironment(
  path: string,
  user: User,
  sandboxEnv: Readonly<Record<string, string>>,
  requestEnv: Readonly<Record<string, string>>,
): Record<string, string> {
  return { PATH: path, HOME: user.home, USER: user.name, LOGNAME: user.name, ...sandboxEnv, ...requestEnv }
}
