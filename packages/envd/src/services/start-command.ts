import { existsSync } from 'node:fs'
import { requireHost, tokenOf } from '../http/access.ts'
import {
  type Exchange,
  HttpError,
  readJson,
  sendJson,
  stringField,
  stringMapField,
} from '../http/exchange.ts'
import { launch } from '../process/launch.ts'
import { processEnvironment } from '../process/process-environment.ts'
import type { ProcessRegistry } from '../process/registry.ts'
import { RunningProcess } from '../process/running-process.ts'
import type { AgentState } from '../state.ts'
import { resolvePath } from '../system/paths.ts'
import type { ServiceSupervisor } from './supervisor.ts'

const BODY_LIMIT_BYTES = 1024 * 1024
const READY_TIMEOUT_MS = 5 * 60_000
const READY_PAUSE_FIRST_MS = 50
const READY_PAUSE_LIMIT_MS = 1000
const START_TAG = 'start_cmd'

/** What a start command works with. */
export interface StartCommandParts {
  readonly state: AgentState
  readonly registry: ProcessRegistry
  readonly supervisor: ServiceSupervisor
  readonly nativeDir: string
  readonly path: string
}

/**
 * `POST /start` `{cmd?, readyCmd?, user?, workdir?, envVars?, readyTimeoutMs?}`: runs the template's start command
 * once, detached, and answers `{pid?, readyAfterMs}` when the ready command has succeeded. It also starts services
 * that were added to the service file.
 *
 * @throws HttpError 400, 401, 500 when the command ends with an error before it is ready, 504 when it never is
 */
export async function startCommand({ request, response }: Exchange, parts: StartCommandParts): Promise<void> {
  requireHost(parts.state, request, tokenOf(request))
  const body = await readJson(request, BODY_LIMIT_BYTES)
  const startedMs = performance.now()
  await parts.supervisor.load()
  const cmd = stringField(body, 'cmd')
  const running = cmd ? await parts.registry.start(...shellCommand(cmd, body, parts)) : undefined
  const readyCmd = stringField(body, 'readyCmd')
  if (readyCmd) await waitReady(readyCmd, body, parts, running)
  const pid = running ? { pid: running.pid } : {}
  sendJson(response, 200, { ...pid, readyAfterMs: Math.round(performance.now() - startedMs) })
}

function shellCommand(
  cmd: string,
  body: Record<string, unknown>,
  { state, path }: StartCommandParts,
): Parameters<ProcessRegistry['start']> {
  const name = stringField(body, 'user') || state.defaultUser
  const user = state.users.find(name)
  if (!user) throw new HttpError(400, `unknown user '${name}'`)
  const shell = existsSync('/bin/bash') ? '/bin/bash' : '/bin/sh'
  const args = ['-l', '-c', cmd]
  const envs = stringMapField(body, 'envVars') ?? {}
  const cwd = resolvePath(stringField(body, 'workdir') ?? '', user, state.defaultWorkdir)
  const env = processEnvironment(path, user, state.env, envs)
  return [
    { command: shell, args, user, cwd, env, maxProcesses: state.maxProcesses, stdin: false },
    { cmd: shell, args, envs, cwd, tag: START_TAG },
  ]
}

async function waitReady(
  readyCmd: string,
  body: Record<string, unknown>,
  parts: StartCommandParts,
  running: RunningProcess | undefined,
): Promise<void> {
  const given = body.readyTimeoutMs
  const timeoutMs = typeof given === 'number' && given > 0 ? given : READY_TIMEOUT_MS
  const endsAtMs = performance.now() + timeoutMs
  let failure: string | undefined
  void running?.ended.then(({ error }) => {
    failure = error
  })
  for (let pauseMs = READY_PAUSE_FIRST_MS; ; pauseMs = Math.min(pauseMs * 2, READY_PAUSE_LIMIT_MS)) {
    const [spec, request] = shellCommand(readyCmd, body, parts)
    const check = new RunningProcess(await launch(spec, parts.nativeDir), request)
    const limit = setTimeout(() => check.kill('SIGKILL'), Math.max(1, endsAtMs - performance.now()))
    const { exitCode } = await check.ended
    clearTimeout(limit)
    if (exitCode === 0) return
    if (failure) throw new HttpError(500, `the start command ended before it was ready: ${failure}`)
    if (performance.now() >= endsAtMs) {
      throw new HttpError(504, `the ready command did not succeed within ${timeoutMs} ms`)
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs))
  }
}
