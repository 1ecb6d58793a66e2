import { randomUUID } from 'node:crypto'
import type { ApiApp } from './app.ts'

export const TRACE_HEADER = 'X-E2B-Trace-ID'

/** A trace id, 32 hex digits. */
export const newTraceId = (): string => randomUUID().replaceAll('-', '')

/** One line per answered request, under the trace id that the client sees. Never headers, bodies or queries. */
export function logRequests(app: ApiApp): void {
  app.addHook('onRequest', async (request, reply) => {
    reply.header(TRACE_HEADER, request.id)
  })
  app.addHook('onResponse', async (request, reply) => {
    const { sandboxID } = (request.params ?? {}) as { sandboxID?: string }
    request.log.info(
      {
        method: request.method,
        route: request.routeOptions.url ?? 'none',
        status: reply.statusCode,
        durationMs: Math.round(reply.elapsedTime * 100) / 100,
        ...(request.caller ? { teamId: request.caller.team.id, keyId: request.caller.keyId } : {}),
        ...(sandboxID ? { sandboxId: sandboxID } : {}),
        ...(request.failure ? { error: request.failure } : {}),
        client: request.headers['user-agent'],
      },
      'request',
    )
  })
}
