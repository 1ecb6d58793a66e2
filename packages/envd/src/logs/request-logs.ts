import { Code, ConnectError, type Interceptor } from '@connectrpc/connect'
import { type Exchange, HttpError } from '../http/exchange.ts'
import type { AgentLog, LogFields } from './agent-log.ts'
import type { LogLevel } from './log-exporter.ts'

/** These come with every key stroke or several times a second, and say nothing new when they succeed. */
const SILENT = new Set(['SendInput', 'StreamInput', 'Update', 'CloseStdin', 'GetWatcherEvents'])
const CHANGES = new Set(['MakeDir', 'Move', 'Remove', 'SendSignal'])
const SHOWN_FIELDS = ['path', 'source', 'destination', 'depth', 'recursive', 'signal', 'watcherId'] as const

let operations = 0

/** Logs the calls that answer once: changes as info, questions as debug, failures as error. */
export function logCalls(log: AgentLog): Interceptor {
  return (next) => async (request) => {
    const { method, service } = request
    const logger = service.typeName === 'process.Process' ? 'process' : 'filesystem'
    const operation: LogFields = {
      method: `POST /${service.typeName}/${method.name}`,
      operation_id: ++operations,
      ...(request.stream ? {} : shownFields(request.message)),
    }
    const title = `${service.name} ${method.name.charAt(0)}${method.name.slice(1).toLowerCase()}`
    try {
      const response = await next(request)
      if (!response.stream && !SILENT.has(method.name)) {
        log.write(CHANGES.has(method.name) ? 'info' : 'debug', logger, title, operation)
      }
      return response
    } catch (error) {
      const { code, rawMessage } = ConnectError.from(error)
      log.write('error', logger, title, { ...operation, error_code: Code[code], error: rawMessage })
      throw error
    }
  }
}

/** Logs one kind of HTTP request when it was answered. */
export function logged(
  log: AgentLog,
  title: string,
  route: (exchange: Exchange) => Promise<void> | void,
): (exchange: Exchange) => Promise<void> {
  return async (exchange) => {
    const { request, path, query } = exchange
    const write = (level: LogLevel, more: LogFields = {}): void => {
      const operation = { method: `${request.method} ${path}`, operation_id: ++operations }
      const target = { path: query.get('path') ?? undefined, username: query.get('username') ?? undefined }
      log.write(level, 'filesystem', title, { ...operation, ...target, ...more })
    }
    try {
      await route(exchange)
      write('info')
    } catch (error) {
      const status = error instanceof HttpError ? error.status : 500
      write('error', { status, error: error instanceof Error ? error.message : String(error) })
      throw error
    }
  }
}

function shownFields(message: object): LogFields {
  const fields: Record<string, string> = {}
  for (const name of SHOWN_FIELDS) {
    const value: unknown = name in message ? (message as Record<string, unknown>)[name] : undefined
    if (value !== undefined && value !== '') fields[name] = String(value)
  }
  return fields
}
