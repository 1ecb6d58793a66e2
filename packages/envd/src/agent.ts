import type { AddressInfo, Server, Socket } from 'node:net'
import { Code, ConnectError } from '@connectrpc/connect'
import { connectNodeAdapter } from '@connectrpc/connect-node'
import { Filesystem } from '@sandbox/contract/gen/filesystem/filesystem_pb'
import { Process } from '@sandbox/contract/gen/process/process_pb'
import { compose } from './files/compose.ts'
import { download } from './files/download.ts'
import { upload } from './files/upload.ts'
import { filesystemService } from './filesystem/filesystem-service.ts'
import { WatchService } from './filesystem/watch-service.ts'
import { requireHost, requireToken, tokenOf } from './http/access.ts'
import { answerCors } from './http/cors.ts'
import {
  type Exchange,
  HttpError,
  header,
  type RequestHandler,
  sendEmpty,
  sendError,
  sendJson,
} from './http/exchange.ts'
import { init } from './http/init.ts'
import { createListener } from './http/listener.ts'
import { MetricsReader } from './http/metrics.ts'
import { trust } from './http/trust.ts'
import { type AgentEvent, AgentLog } from './logs/agent-log.ts'
import { LogExporter, type LogLevel } from './logs/log-exporter.ts'
import { logCalls, logged } from './logs/request-logs.ts'
import type { AgentOptions } from './options.ts'
import { processService } from './process/process-service.ts'
import { ProcessRegistry } from './process/registry.ts'
import { checkNamedUser } from './request-user.ts'
import { PortForwarder } from './services/port-forwarder.ts'
import { startCommand } from './services/start-command.ts'
import { ServiceSupervisor } from './services/supervisor.ts'
import { AgentState } from './state.ts'
import { errorText } from './system/error-text.ts'
import { syncFiles } from './system/own-kernel.ts'

const TIMEOUT_HEADER = 'connect-timeout-ms'
const LONGEST_TIMER_MS = 2 ** 31 - 1
const RPC_MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024

const EVENTS_PORT = 80
const NOT_STORED = { 'Cache-Control': 'no-store' }
/** Lines that wait when the sandbox is captured are worth this much of a delay. */
const LAST_LINES_WITHIN_MS = 250
const EVENT_LEVELS: Readonly<Record<string, LogLevel>> = {
  service_end: 'warn',
  service_failed: 'error',
  service_file_invalid: 'error',
  request_failed: 'error',
}

/** A listening agent. */
export interface Agent {
  readonly port: number
  /** Stops listening, ends services and watches. Processes of users go on. */
  close(): Promise<void>
}

type Route = (exchange: Exchange) => Promise<void> | void

/** Starts the agent; resolves when it accepts requests. @throws the error of listen */
export async function startAgent(options: AgentOptions): Promise<Agent> {
  const state = new AgentState(options)
  const exporter = new LogExporter({ port: options.eventsPort ?? EVENTS_PORT })
  const agentLog = new AgentLog(exporter)
  const registry = new ProcessRegistry(options.nativeDir, agentLog)
  const watches = new WatchService(state, options.nativeDir)
  const log = (event: AgentEvent): void => {
    options.log?.(JSON.stringify({ time: new Date().toISOString(), ...event }))
    const { event: name, ...fields } = event
    agentLog.write(EVENT_LEVELS[name] ?? 'info', 'envd', name.replaceAll('_', ' '), fields)
  }
  const supervisor = new ServiceSupervisor({ ...options, state, log })
  const forwarder = options.forwardAddress
    ? new PortForwarder(options.forwardAddress, () => registry.running.length > 0 || supervisor.isUsed)
    : undefined
  registry.onActivity = () => forwarder?.attend()

  const routes = httpRoutes(options, { state, registry, supervisor, watches, exporter, agentLog })
  const rpc = rpcHandler(options, { state, registry, watches, agentLog })
  const server = createListener((request, response) => {
    void handle(request, response, { state, routes, rpc, log })
  })
  const sockets = new Set<Socket>()
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  await listen(server, options)
  const port = (server.address() as AddressInfo).port
  log({ event: 'agent_start', port })
  await supervisor.load()
  return {
    port,
    close: async () => {
      exporter.close()
      forwarder?.close()
      supervisor.close()
      watches.close()
      await new Promise<void>((resolve) => {
        server.close(() => resolve())
        for (const socket of sockets) socket.destroy()
      })
    },
  }
}

function httpRoutes(
  options: AgentOptions,
  parts: {
    state: AgentState
    registry: ProcessRegistry
    supervisor: ServiceSupervisor
    watches: WatchService
    exporter: LogExporter
    agentLog: AgentLog
  },
): ReadonlyMap<string, Route> {
  const { state } = parts
  const metrics = new MetricsReader()
  const { watches, exporter, agentLog } = parts
  const hostOnly =
    (action: () => Promise<void> | void): Route =>
    async ({ request, response }) => {
      requireHost(state, request, tokenOf(request))
      await action()
      sendEmpty(response, 204)
    }
  return new Map<string, Route>([
    ['GET /health', ({ response }) => sendEmpty(response, 204, NOT_STORED)],
    [
      'GET /metrics',
      ({ response }) => {
        state.memoryFile.refresh()
        sendJson(response, 200, metrics.read(), NOT_STORED)
      },
    ],
    ['GET /envs', ({ response }) => sendJson(response, 200, state.env, NOT_STORED)],
    [
      'POST /init',
      async (exchange) => {
        const identity = await init(exchange, state, options.rootDir)
        if (identity) exporter.begin(identity.eventsAddress, identity.generation !== undefined)
        watches.resume()
      },
    ],
    ['POST /init/trust', (exchange) => trust(exchange, state, options.rootDir)],
    [
      'POST /freeze',
      hostOnly(async () => {
        watches.suspend()
        await exporter.suspend(LAST_LINES_WITHIN_MS)
        syncFiles()
        globalThis.gc?.()
      }),
    ],
    [
      'POST /unfreeze',
      hostOnly(() => {
        watches.resume()
        exporter.resume()
      }),
    ],
    ['POST /start', (exchange) => startCommand(exchange, { ...options, ...parts })],
    ['GET /files', logged(agentLog, 'File read', (exchange) => download(exchange, state))],
    ['POST /files', logged(agentLog, 'File write', (exchange) => upload(exchange, state))],
    ['POST /files/compose', logged(agentLog, 'File compose', (exchange) => compose(exchange, state))],
  ])
}

function rpcHandler(
  options: AgentOptions,
  parts: { state: AgentState; registry: ProcessRegistry; watches: WatchService; agentLog: AgentLog },
): RequestHandler {
  return connectNodeAdapter({
    grpc: false,
    grpcWeb: false,
    acceptCompression: [],
    readMaxBytes: RPC_MESSAGE_LIMIT_BYTES,
    interceptors: [
      logCalls(parts.agentLog),
      (next) => (request) => {
        checkNamedUser(parts.state, request.header)
        return next(request)
      },
    ],
    routes: (router) => {
      router.service(Process, processService({ ...parts, path: options.path }))
      router.service(Filesystem, filesystemService(parts.state, parts.watches))
    },
    fallback: (request, response) => {
      const isRpc = /^\/(process\.Process|filesystem\.Filesystem)\//.test(request.url ?? '')
      if (!isRpc) return sendError(response, 404, `path ${request.url} not found`)
      const error = new ConnectError('no such method', Code.Unimplemented)
      sendJson(response, 404, { code: 'unimplemented', message: error.rawMessage })
    },
  })
}

interface Handling {
  readonly state: AgentState
  readonly routes: ReadonlyMap<string, Route>
  readonly rpc: RequestHandler
  readonly log: (event: AgentEvent) => void
}

async function handle(
  request: Exchange['request'],
  response: Exchange['response'],
  { state, routes, rpc, log }: Handling,
): Promise<void> {
  try {
    if (answerCors(request, response)) return
    const [path = '/', query = ''] = splitTarget(request.url ?? '/')
    const exchange = { request, response, path, query: new URLSearchParams(query) }
    requireToken(state, exchange)
    const route = routes.get(`${request.method} ${path}`)
    if (route) await route(exchange)
    else {
      dropUnboundTimeout(request)
      rpc(request, response)
    }
  } catch (error) {
    if (response.headersSent) {
      response.destroy()
      return
    }
    if (!(error instanceof HttpError))
      log({ event: 'request_failed', path: request.url, error: String(error) })
    sendError(response, error instanceof HttpError ? error.status : 500, errorText(error))
    request.resume()
  }
}

/** Zero means no limit, and a limit beyond the longest timer (24 days) is none in practice. */
function dropUnboundTimeout(request: Exchange['request']): void {
  const timeoutMs = Number(header(request, TIMEOUT_HEADER))
  if (timeoutMs === 0 || timeoutMs > LONGEST_TIMER_MS) delete request.headers[TIMEOUT_HEADER]
}

function splitTarget(target: string): [string, string] {
  const at = target.indexOf('?')
  return at < 0 ? [target, ''] : [target.slice(0, at), target.slice(at + 1)]
}

function listen(server: Server, { port, host }: AgentOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ port, host, backlog: 1024 }, () => {
      server.off('error', reject)
      resolve()
    })
  })
}
