import { STATUS_CODES } from 'node:http'
import { ApiError, type ErrorBody } from '@sandbox/contract/errors'
import type { FastifyError, FastifyReply } from 'fastify'
import type { ApiApp } from './app.ts'

const DEFAULT_RETRY_AFTER_SECONDS = 1

interface ErrorAnswer {
  readonly body: ErrorBody
  readonly shouldRetry: boolean
  readonly retryAfterSeconds?: number | undefined
}

/** Errors of the HTTP layer itself: unreadable JSON, failed validation, bodies over the limit. */
function answerOfFramework(error: FastifyError, status: number): ErrorAnswer {
  // E2B answers 400 to a body it cannot read, whatever its content type.
  const code = status === 415 ? 400 : status
  return {
    body: { code, message: error.message || (STATUS_CODES[code] ?? 'Error') },
    shouldRetry: code === 429,
  }
}

function answerOf(error: unknown): ErrorAnswer {
  if (error instanceof ApiError) {
    return {
      body: error.toBody(),
      shouldRetry: error.shouldRetry,
      retryAfterSeconds: error.retryAfterSeconds,
    }
  }
  const status = (error as FastifyError).statusCode
  if (status !== undefined && status >= 400 && status < 500)
    return answerOfFramework(error as FastifyError, status)
  return answerOf(
    new ApiError('internal', 'Internal error: see the server log under the trace id of this answer.'),
  )
}

function send(reply: FastifyReply, answer: ErrorAnswer): FastifyReply {
  const { body } = answer
  reply.code(body.code).header('Should-Retry', String(answer.shouldRetry))
  if (body.code === 429 || body.code === 503) {
    reply.header('Retry-After', String(answer.retryAfterSeconds ?? DEFAULT_RETRY_AFTER_SECONDS))
  }
  return reply.type('application/json; charset=utf-8').send(JSON.stringify(body))
}

/** Answers a request that reached no route, for example for its malformed path. */
export function answerFrameworkError(error: FastifyError, reply: FastifyReply): void {
  void send(reply, answerOf(error))
}

/** Gives every error the shape and headers that clients read, and every unexpected one a log line. */
export function answerErrors(app: ApiApp): void {
  app.setErrorHandler((error, request, reply) => {
    const answer = answerOf(error)
    if (answer.body.code === 503) request.log.warn({ err: error }, 'request refused')
    else if (answer.body.code >= 500) request.log.error({ err: error }, 'request failed')
    request.failure = answer.body.message
    return send(reply, answer)
  })
  app.setNotFoundHandler((request, reply) => {
    const message = `No such route: ${request.method} ${request.url.split('?', 1)[0]}`
    return send(reply, { body: { code: 404, message }, shouldRetry: false })
  })
}

declare module 'fastify' {
  interface FastifyRequest {
    /** The message of the error that was answered, for the log. */
    failure: string | null
  }
}
