import { statSync } from 'node:fs'
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from '@connectrpc/connect'
import {
  type Process,
  type ProcessInput,
  type ProcessSelector,
  Signal,
  type StartRequest,
} from '@sandbox/contract/gen/process/process_pb'
import { requestUser } from '../request-user.ts'
import type { AgentState } from '../state.ts'
import { errorText } from '../system/error-text.ts'
import { resolvePath } from '../system/paths.ts'
import { LaunchError, type LaunchSpec } from './launch.ts'
import { processEnvironment } from './process-environment.ts'
import type { ProcessRegistry, Selector } from './registry.ts'
import type { ProcessEvent, ProcessRequest, RunningProcess } from './running-process.ts'
import { follow, keepaliveMs } from './subscription.ts'

/** What the process service works with. */
export interface ProcessServiceParts {
  readonly state: AgentState
  readonly registry: ProcessRegistry
  /** PATH of the processes. */
  readonly path: string
}

const KEEPALIVE: ProcessEvent = { event: { case: 'keepalive', value: {} } }

/** `process.Process`: every method throws ConnectError with the agent's documented codes and texts. */
export function processService(parts: ProcessServiceParts): ServiceImpl<typeof Process> {
  const { registry } = parts
  return {
    list: () => ({ processes: registry.running.map(describe) }),
    start: (request, context) => start(parts, request, context),
    connect: (request, context) => connect(registry, selectorOf(request.process), context),
    update(request) {
      const process = findProcess(registry, request.process)
      const size = request.pty?.size
      if (size) attempt('error resizing tty', Code.Internal, () => process.resize(size))
      return {}
    },
    async sendInput(request) {
      await writeInput(registry, findProcess(registry, request.process), request.input)
      return {}
    },
    async streamInput(requests) {
      let process: RunningProcess | undefined
      for await (const { event } of requests) {
        if (event.case === 'start') process = findProcess(registry, event.value.process)
        else if (event.case === 'data') await writeInput(registry, required(process), event.value.input)
        else if (event.case === undefined) throw new ConnectError('invalid event type', Code.Unimplemented)
      }
      return {}
    },
    async sendSignal(request) {
      const process = findProcess(registry, request.process)
      if (request.signal === Signal.SIGKILL) await process.killed(KILL_WITHIN_MS)
      else if (request.signal === Signal.SIGTERM) process.kill('SIGTERM')
      else throw new ConnectError(`invalid signal: ${request.signal}`, Code.Unimplemented)
      return {}
    },
    closeStdin(request) {
      const process = findProcess(registry, request.process)
      attempt('error closing stdin', Code.Unknown, () => process.closeStdin())
      return {}
    },
  }
}

/** What is in a system call that cannot be interrupted ends later than its client hears. */
const KILL_WITHIN_MS = 1_000

async function* start(parts: ProcessServiceParts, request: StartRequest, context: HandlerContext) {
  const spec = launchSpec(parts, request, context)
  parts.state.memoryFile.refresh()
  let process: RunningProcess
  try {
    process = await parts.registry.start(spec, requestOf(request))
  } catch (error) {
    throw startError(error, spec)
  }
  const subscription = process.subscribe()
  const timeoutMs = context.timeoutMs()
  if (timeoutMs !== undefined && timeoutMs > 0) process.limitTo(timeoutMs, subscription)
  yield* stream(process.pid, subscription, context)
}

async function* connect(registry: ProcessRegistry, selector: Selector, context: HandlerContext) {
  const process = registry.find(selector)
  if (process) return yield* stream(process.pid, process.subscribe(), context)
  const ended = registry.findEnded(selector)
  if (!ended) throw notFound(selector)
  yield { event: startEvent(ended.pid) }
  yield { event: { event: { case: 'end' as const, value: { ...ended.status } } } }
}

async function* stream(
  pid: number,
  subscription: ReturnType<RunningProcess['subscribe']>,
  context: HandlerContext,
) {
  const events = follow(subscription, {
    silenceMs: keepaliveMs(context.requestHeader),
    silence: () => KEEPALIVE,
    signal: context.signal,
  })
  try {
    yield { event: startEvent(pid) }
    for await (const event of events) yield { event }
  } finally {
    subscription.close()
  }
}

function launchSpec(parts: ProcessServiceParts, request: StartRequest, context: HandlerContext): LaunchSpec {
  const { state } = parts
  const user = requestUser(state, context.requestHeader)
  const config = request.process
  if (!config) throw new ConnectError('process configuration is required', Code.InvalidArgument)
  const cwd = attempt(undefined, Code.InvalidArgument, () =>
    resolvePath(config.cwd ?? '', user, state.defaultWorkdir),
  )
  if (!attempt('error checking cwd', Code.InvalidArgument, () => statSync(cwd, { throwIfNoEntry: false }))) {
    throw new ConnectError(`cwd '${cwd}' does not exist`, Code.InvalidArgument)
  }
  const size = request.pty
    ? { cols: request.pty.size?.cols ?? 0, rows: request.pty.size?.rows ?? 0 }
    : undefined
  return {
    command: config.cmd,
    args: config.args,
    user,
    cwd,
    env: processEnvironment(parts.path, user, state.env, config.envs),
    maxProcesses: state.maxProcesses,
    stdin: request.stdin ?? true,
    ...(size ? { terminal: size } : {}),
  }
}

function startError(error: unknown, spec: LaunchSpec): ConnectError {
  const reason = error instanceof Error ? error.message : String(error)
  const command = [spec.command, ...spec.args].join(' ')
  if (!(error instanceof LaunchError)) {
    return new ConnectError(`error starting process '${command}': ${reason}`, Code.Internal)
  }
  const detail = error.step === 'cwd' ? `chdir ${spec.cwd}${reason.slice('cwd'.length)}` : reason
  if (!spec.terminal) {
    return new ConnectError(`error starting process '${command}': ${detail}`, Code.InvalidArgument)
  }
  const { cols, rows } = spec.terminal
  const where = `in dir '${spec.cwd}' with '${cols}' cols and '${rows}' rows`
  return new ConnectError(
    `error starting pty with command '${command}' ${where}: ${detail}`,
    Code.InvalidArgument,
  )
}

function requestOf(request: StartRequest): ProcessRequest {
  const config = request.process
  return {
    cmd: config?.cmd ?? '',
    args: config?.args ?? [],
    envs: config?.envs ?? {},
    ...(config?.cwd === undefined ? {} : { cwd: config.cwd }),
    ...(request.tag === undefined ? {} : { tag: request.tag }),
  }
}

function describe({ pid, request }: RunningProcess) {
  const { tag, args, envs, ...config } = request
  return {
    pid,
    ...(tag === undefined ? {} : { tag }),
    config: { ...config, args: [...args], envs: { ...envs } },
  }
}

async function writeInput(
  registry: ProcessRegistry,
  process: RunningProcess,
  input: ProcessInput | undefined,
): Promise<void> {
  if (!input?.input.case) throw new ConnectError('invalid input type', Code.Unimplemented)
  const { case: kind, value } = input.input
  try {
    await (kind === 'pty' ? process.writeTerminal(value) : process.writeStdin(value))
  } catch (error) {
    const name = kind === 'pty' ? 'tty' : 'stdin'
    throw new ConnectError(`error writing to ${name}: ${errorText(error)}`, Code.Internal)
  }
  registry.onActivity()
}

function attempt<T>(context: string | undefined, code: Code, action: () => T): T {
  try {
    return action()
  } catch (error) {
    const reason = errorText(error)
    throw new ConnectError(context ? `${context}: ${reason}` : reason, code)
  }
}

function required(process: RunningProcess | undefined): RunningProcess {
  if (process) return process
  throw new ConnectError('the first event must be start', Code.InvalidArgument)
}

const startEvent = (pid: number): ProcessEvent => ({ event: { case: 'start', value: { pid } } })

function selectorOf(selector: ProcessSelector | undefined): Selector {
  const chosen = selector?.selector
  if (chosen?.case === 'pid') return { pid: chosen.value }
  if (chosen?.case === 'tag') return { tag: chosen.value }
  throw new ConnectError('invalid input type', Code.Unimplemented)
}

function notFound(selector: Selector): ConnectError {
  const which = 'pid' in selector ? `pid ${selector.pid}` : `tag ${selector.tag}`
  return new ConnectError(`process with ${which} not found`, Code.NotFound)
}

function findProcess(registry: ProcessRegistry, selector: ProcessSelector | undefined): RunningProcess {
  const chosen = selectorOf(selector)
  const process = registry.find(chosen)
  if (!process) throw notFound(chosen)
  return process
}
