import { isIPv4 } from 'node:net'
import { ENVD_VERSION } from '../options.ts'
import type { AgentState } from '../state.ts'
import { type Identity, systemEnv, writeIdentity } from '../system/identity.ts'
import { reseedOpenSsl } from '../system/kernel.ts'
import { reseedKernel, setClock } from '../system/own-kernel.ts'
import { limitTasks } from '../system/task-limit.ts'
import { requireHost } from './access.ts'
import {
  type Exchange,
  HttpError,
  integerField,
  readJson,
  sendEmpty,
  stringField,
  stringMapField,
} from './exchange.ts'

const BODY_LIMIT_BYTES = 4 * 1024 * 1024

/**
 * `POST /init`: the host tells who this sandbox is. Answers 204 when everything that a clone must not share is
 * replaced. A call older than the last accepted one changes nothing.
 *
 * @returns who it is from now on; undefined when nothing changed
 * @throws HttpError 400 for a malformed body, 401 when the caller may not
 */
export async function init(
  { request, response }: Exchange,
  state: AgentState,
  rootDir: string,
): Promise<Identity | undefined> {
  response.setHeader('X-Envd-Version', ENVD_VERSION)
  response.setHeader('Cache-Control', 'no-store')
  const body = await readJson(request, BODY_LIMIT_BYTES)
  const token = stringField(body, 'accessToken')
  requireHost(state, request, token)
  const isAccepted = isNewer(state, stringField(body, 'timestamp'))
  const identity = isAccepted ? apply(state, rootDir, body, token) : undefined
  sendEmpty(response, 204)
  return identity
}

function isNewer(state: AgentState, timestamp: string | undefined): boolean {
  if (timestamp === undefined) return true
  const milliseconds = Date.parse(timestamp)
  if (Number.isNaN(milliseconds)) throw new HttpError(400, 'invalid request body: timestamp must be RFC 3339')
  return state.acceptInitTime(BigInt(milliseconds) * 1_000_000n)
}

function apply(
  state: AgentState,
  rootDir: string,
  body: Record<string, unknown>,
  token: string | undefined,
): Identity {
  const identity: Identity = {
    hostname: stringField(body, 'hostname'),
    machineId: stringField(body, 'machineId'),
    bootId: stringField(body, 'bootId'),
    generation: stringField(body, 'generation'),
    sandboxId: stringField(body, 'sandboxId'),
    templateId: stringField(body, 'templateId'),
    eventsAddress: addressField(body, 'hyperloopIP'),
  }
  const env = stringMapField(body, 'envVars')
  const reseed = stringField(body, 'reseed')
  const clockMs = integerField(body, 'clockMs')
  // Before all else: until then clones of one memory draw the same.
  if (reseed) {
    const seed = Buffer.from(reseed, 'hex')
    reseedKernel(seed)
    reseedOpenSsl(seed)
  }
  if (clockMs !== undefined) setClock(clockMs)
  if (env) state.setUserEnv(env)
  state.setSystemEnv(systemEnv(identity))
  state.setToken(token)
  state.defaultUser = stringField(body, 'defaultUser') || state.defaultUser
  state.maxProcesses = integerField(body, 'maxProcesses') ?? state.maxProcesses
  const maxTasks = integerField(body, 'maxTasks')
  if (maxTasks !== undefined) limitTasks(rootDir, maxTasks)
  state.defaultWorkdir = stringField(body, 'defaultWorkdir') || state.defaultWorkdir
  writeIdentity(rootDir, identity)
  const memoryMib = integerField(body, 'memoryMib')
  if (memoryMib !== undefined) state.memoryFile.setLimit(memoryMib)
  return identity
}

function addressField(body: Record<string, unknown>, name: string): string | undefined {
  const address = stringField(body, name)
  if (!address) return undefined
  if (!isIPv4(address)) throw new HttpError(400, `invalid request body: ${name} must be an IPv4 address`)
  return address
}
