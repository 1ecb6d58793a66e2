import {
  IdempotencyKey,
  NewSandbox,
  NewSandboxV2,
  Sandbox,
  SandboxDetail,
  SandboxParams,
  SandboxRefresh,
  SandboxTimeout,
} from '@sandbox/contract/rest/sandboxes'
import type { Store } from '@sandbox/store/store'
import { Type } from 'typebox'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import type { Answers } from '../sandboxes/answers.ts'
import { sandboxNotFound } from '../sandboxes/entries.ts'
import type { Lifecycle } from '../sandboxes/lifecycle.ts'
import type { RunningSandboxes } from '../sandboxes/running.ts'
import { emptyBodyAsObject, parseSandboxId } from './requests.ts'
import { errors, NoContent } from './responses.ts'

const V1_TIMEOUT_SECONDS = 15
const V2_TIMEOUT_SECONDS = 300
const LEAST_REFRESH_SECONDS = 15

export interface SandboxRouteParts {
  readonly lifecycle: Lifecycle
  readonly answers: Answers
  readonly running: RunningSandboxes
  readonly store: Store
}

/** Routes of one sandbox: create, read, timeout, kill. */
export function sandboxRoutes(app: ApiApp, parts: SandboxRouteParts): void {
  createRoutes(app, parts)
  timeoutRoutes(app, parts)
  const { answers, lifecycle, running, store } = parts

  app.get(
    '/sandboxes/:sandboxID',
    {
      schema: {
        tags: ['sandboxes'],
        params: SandboxParams,
        response: { 200: SandboxDetail, ...errors(400, 401, 404) },
      },
    },
    async (request) => {
      const id = parseSandboxId(request.params.sandboxID)
      const row = await store.sandboxes.find(teamOf(request).id, id)
      if (!row || running.get(id)?.phase === 'killing') throw sandboxNotFound(id)
      return answers.detailed(row)
    },
  )

  app.delete(
    '/sandboxes/:sandboxID',
    {
      schema: {
        tags: ['sandboxes'],
        params: SandboxParams,
        response: { 204: NoContent, ...errors(400, 401, 404, 503) },
      },
    },
    async (request, reply) => {
      await lifecycle.kill(teamOf(request), parseSandboxId(request.params.sandboxID))
      return reply.code(204).send(null)
    },
  )
}

function createRoutes(app: ApiApp, { lifecycle }: SandboxRouteParts): void {
  const failures = errors(400, 401, 403, 404, 429, 500, 503, 504)

  app.post(
    '/sandboxes',
    { schema: { tags: ['sandboxes'], body: NewSandbox, response: { 201: Sandbox, ...failures } } },
    async (request, reply) => {
      const { secure: _secure, timeout = V1_TIMEOUT_SECONDS, ...body } = request.body
      const sandbox = await lifecycle.create(teamOf(request), { ...body, timeout })
      return reply.code(201).send(sandbox)
    },
  )

  const headers = Type.Object({ 'idempotency-key': Type.Optional(IdempotencyKey) })
  app.post(
    '/v2/sandboxes',
    {
      schema: {
        tags: ['sandboxes'],
        headers,
        body: NewSandboxV2,
        response: { 201: Sandbox, ...failures, ...errors(409, 422) },
      },
    },
    async (request, reply) => {
      const { timeout = V2_TIMEOUT_SECONDS, ...body } = request.body
      const key = request.headers['idempotency-key']
      const sandbox = await lifecycle.create(teamOf(request), { ...body, timeout }, key)
      return reply.code(201).send(sandbox)
    },
  )
}

function timeoutRoutes(app: ApiApp, { lifecycle }: SandboxRouteParts): void {
  const response = { 204: NoContent, ...errors(400, 401, 404, 409, 503) }

  app.post(
    '/sandboxes/:sandboxID/timeout',
    { schema: { tags: ['sandboxes'], params: SandboxParams, body: SandboxTimeout, response } },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID)
      await lifecycle.setTimeout(teamOf(request), id, request.body.timeout, false)
      return reply.code(204).send(null)
    },
  )

  app.post(
    '/sandboxes/:sandboxID/refreshes',
    {
      schema: { tags: ['sandboxes'], params: SandboxParams, body: SandboxRefresh, response },
      preValidation: emptyBodyAsObject,
    },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID)
      const { duration = 0 } = request.body
      const seconds = Math.max(duration, LEAST_REFRESH_SECONDS)
      await lifecycle.setTimeout(teamOf(request), id, seconds, true)
      return reply.code(204).send(null)
    },
  )
}
