import { ForkResult, ForkSandbox, SandboxParams } from '@sandbox/contract/rest/sandboxes'
import { NewSnapshot, SnapshotInfo, SnapshotListQuery } from '@sandbox/contract/rest/snapshots'
import { TemplateParams } from '@sandbox/contract/rest/templates'
import { Type } from 'typebox'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import { nextToken, parseNextToken } from '../http/pagination.ts'
import type { Forks } from '../sandboxes/forking.ts'
import { type Snapshots, snapshotInfo } from '../sandboxes/snapshots.ts'
import { emptyBodyAsObject, parseSandboxId } from './requests.ts'
import { errors, NoContent } from './responses.ts'

const FORK_TIMEOUT_SECONDS = 15
const MAX_PAGE = 100

export interface CaptureRouteParts {
  readonly forks: Forks
  readonly snapshots: Snapshots
}

/** Routes that capture running sandboxes: forks and snapshots. */
export function captureRoutes(app: ApiApp, { forks, snapshots }: CaptureRouteParts): void {
  app.post(
    '/sandboxes/:sandboxID/fork',
    {
      schema: {
        tags: ['sandboxes'],
        params: SandboxParams,
        body: ForkSandbox,
        response: { 201: Type.Array(ForkResult), ...errors(400, 401, 404, 409, 500, 503) },
      },
      preValidation: emptyBodyAsObject,
    },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID)
      const { timeout: timeoutSeconds = FORK_TIMEOUT_SECONDS, count = 1 } = request.body
      return reply.code(201).send(await forks.fork(teamOf(request), id, { timeoutSeconds, count }))
    },
  )
  app.post(
    '/sandboxes/:sandboxID/snapshots',
    {
      schema: {
        tags: ['snapshots'],
        params: SandboxParams,
        body: NewSnapshot,
        response: { 201: SnapshotInfo, ...errors(400, 401, 404, 409, 429, 500, 503) },
      },
      preValidation: emptyBodyAsObject,
    },
    async (request, reply) => {
      const id = parseSandboxId(request.params.sandboxID)
      const { name, memory = true } = request.body
      return reply.code(201).send(await snapshots.create(teamOf(request), id, name, memory))
    },
  )
  listRoute(app, snapshots)
  app.delete(
    '/templates/:templateID',
    {
      schema: {
        tags: ['templates'],
        params: TemplateParams,
        response: { 204: NoContent, ...errors(400, 401, 404) },
      },
    },
    async (request, reply) => {
      await snapshots.deleteTemplate(teamOf(request), request.params.templateID)
      return reply.code(204).send(null)
    },
  )
}

function listRoute(app: ApiApp, snapshots: Snapshots): void {
  app.get(
    '/snapshots',
    {
      schema: {
        tags: ['snapshots'],
        querystring: SnapshotListQuery,
        response: { 200: Type.Array(SnapshotInfo), ...errors(400, 401) },
      },
    },
    async (request, reply) => {
      const { sandboxID, name, limit = MAX_PAGE, nextToken: token } = request.query
      const position = token ? parseNextToken(token, 'desc') : undefined
      const found = await snapshots.list(teamOf(request), {
        sandboxId: sandboxID === undefined ? undefined : parseSandboxId(sandboxID),
        name,
        limit: limit + 1,
        after: position && { createdAt: position.startedAt, buildId: position.id },
      })
      const shown = found.slice(0, limit)
      const last = shown.at(-1)
      if (found.length > limit && last) {
        reply.header('X-Next-Token', nextToken({ startedAt: last.createdAt, id: last.buildId }, 'desc'))
      }
      return shown.map(snapshotInfo)
    },
  )
}
