import type { AgentState } from '../state.ts'
import { trustAuthority } from '../system/trust.ts'
import { requireHost, tokenOf } from './access.ts'
import { type Exchange, HttpError, readJson, sendEmpty, stringField } from './exchange.ts'

const BODY_LIMIT_BYTES = 64 * 1024

/**
 * `POST /init/trust`: the host names the authority whose certificates the sandbox meets where rules change its
 * requests. Answers 204 when programs that start from now on trust it, also by variables of their
 * environment; those that the user set win.
 *
 * @throws HttpError 400 for a malformed body, 401 when the caller may not
 */
export async function trust(
  { request, response }: Exchange,
  state: AgentState,
  rootDir: string,
): Promise<void> {
  requireHost(state, request, tokenOf(request))
  const certificate = stringField(await readJson(request, BODY_LIMIT_BYTES), 'certificate')
  if (!certificate?.includes('-----BEGIN CERTIFICATE-----'))
    throw new HttpError(400, 'invalid request body: certificate must be PEM')
  state.setSystemEnv(trustAuthority(rootDir, certificate))
  sendEmpty(response, 204)
}
