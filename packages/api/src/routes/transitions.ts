import {
  ConnectSandbox,
  ConnectSandboxV2,
  PauseSandbox,
  ResumeSandbox,
  Sandbox,
  SandboxParams,
} from '@sandbox/contract/rest/sandboxes'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import type { Lifecycle } from '../sandboxes/lifecycle.ts'
import type { Pauses } from '../sandboxes/pausing.ts'
import { emptyBodyAsObject, parseSandboxId } from './requests.ts'
import { errors, NoContent } from './responses.ts'

const CONNECT_TIMEOUT_SECONDS = 300
const RESUME_TIMEOUT_SECONDS = 15

export interface TransitionRouteParts {
  readonly lifecycle: Lifecycle
  readonly pauses: Pauses
}

/** Routes that pause sandboxes and bring them back. */
export function transitionRoutes(app: ApiApp, parts: TransitionRouteParts): void {
  connectRoutes(app, parts)
  pauseRoutes(app, parts)
}

function connectRoutes(app: ApiApp, { lifecycle }: TransitionRouteParts): void {
  const response = { 200: Sandbox, 201: Sandbox, ...errors(400, 401, 404, 409, 429, 500, 503, 504) }
  app.post(
    '/sandboxes/:sandboxID/connect',
    { schema: { tags: ['sandboxes'], params: SandboxParams, body: ConnectSandbox, response } },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID)
      const { timeout: timeoutSeconds, memory = true } = request.body
      const { sandbox, resumed } = await lifecycle.connect(teamOf(request), id, { timeoutSeconds, memory })
      return reply.code(resumed ? 201 : 200).send(sandbox)
    },
  )
  app.post(
    '/v2/sandboxes/:sandboxID/connect',
    {
      schema: { tags: ['sandboxes'], params: SandboxParams, body: ConnectSandboxV2, response },
      preValidation: emptyBodyAsObject,
    },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID)
      const { timeout: timeoutSeconds = CONNECT_TIMEOUT_SECONDS, memory = true } = request.body
      const { sandbox, resumed } = await lifecycle.connect(teamOf(request), id, { timeoutSeconds, memory })
      return reply.code(resumed ? 201 : 200).send(sandbox)
    },
  )
}

function pauseRoutes(app: ApiApp, { lifecycle, pauses }: TransitionRouteParts): void {
  app.post(
    '/sandboxes/:sandboxID/resume',
    {
      schema: {
        tags: ['sandboxes'],
        deprecated: true,
        params: SandboxParams,
        body: ResumeSandbox,
        response: { 201: Sandbox, ...errors(400, 401, 404, 409, 429, 500, 503, 504) },
      },
      preValidation: emptyBodyAsObject,
    },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID)
      const { timeout: timeoutSeconds = RESUME_TIMEOUT_SECONDS, memory = true, autoPause } = request.body
      const sandbox = await lifecycle.resume(teamOf(request), id, { timeoutSeconds, memory, autoPause })
      return reply.code(201).send(sandbox)
    },
  )
  app.post(
    '/sandboxes/:sandboxID/pause',
    {
      schema: {
        tags: ['sandboxes'],
        params: SandboxParams,
        body: PauseSandbox,
        response: { 204: NoContent, ...errors(400, 401, 404, 409, 500, 503) },
      },
      preValidation: emptyBodyAsObject,
    },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID)
      const { memory = true, requireHealthyGuest = false } = request.body
      await pauses.pause(teamOf(request), id, { memory, requireHealthyGuest })
      return reply.code(204).send(null)
    },
  )
}
