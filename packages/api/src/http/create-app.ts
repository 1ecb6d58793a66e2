import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyBaseLogger, LogController } from 'fastify'
import type { Logger } from 'pino'
import type { ApiApp } from './app.ts'
import { allowOtherOrigins } from './cors.ts'
import { answerErrors, answerFrameworkError } from './errors.ts'
import { logRequests, newTraceId, TRACE_HEADER } from './request-log.ts'
import { validateRequests } from './validation.ts'

const BODY_LIMIT_BYTES = 4 * 1024 * 1024
const MAX_PARAM_LENGTH = 512

/** An HTTP server with the manners of this API: errors, validation, trace ids and logs; no routes yet. */
export function createHttpApp(logger: Logger): ApiApp {
  const app: ApiApp = Fastify({
    loggerInstance: logger as FastifyBaseLogger,
    genReqId: newTraceId,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'traceId' }),
    bodyLimit: BODY_LIMIT_BYTES,
    routerOptions: { maxParamLength: MAX_PARAM_LENGTH },
    forceCloseConnections: 'idle',
    frameworkErrors: (error, request, reply) => {
      reply.header(TRACE_HEADER, request.id)
      answerFrameworkError(error, reply)
    },
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.decorateRequest('caller', null)
  app.decorateRequest('failure', null)
  validateRequests(app)
  answerErrors(app)
  logRequests(app)
  allowOtherOrigins(app)
  return app
}
