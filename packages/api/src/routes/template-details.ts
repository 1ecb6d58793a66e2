import { ApiError } from '@sandbox/contract/errors'
import {
  BuildLogs,
  BuildLogsQuery,
  BuildParams,
  BuildStatusQuery,
  ChangedTemplate,
  type Isolation,
  type TemplateBuild,
  TemplateBuildInfo,
  TemplateBuildsQuery,
  TemplateChange,
  TemplateParams,
  TemplateWithBuilds,
} from '@sandbox/contract/rest/templates'
import type { TemplateBuild as StoredBuild, Template } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import { nextToken, parseNextToken } from '../http/pagination.ts'
import type { Hosts } from '../sandboxes/hosts.ts'
import { buildLogs } from '../templates/build-logs.ts'
import type { TemplateResolver } from '../templates/resolver.ts'
import { errors } from './responses.ts'
import { toTemplate } from './templates.ts'

const MAX_PAGE = 100

export interface TemplateDetailParts {
  readonly store: Store
  readonly templates: TemplateResolver
  readonly hosts: Hosts
}

const isoTime = (ms: number): string => new Date(ms).toISOString()

function toBuild(build: StoredBuild): TemplateBuild {
  return {
    buildID: build.id,
    status: build.status,
    createdAt: isoTime(build.createdAt),
    updatedAt: isoTime(build.updatedAt),
    ...(build.finishedAt === null ? {} : { finishedAt: isoTime(build.finishedAt) }),
    cpuCount: build.cpuCount,
    memoryMB: build.memoryMib,
    diskSizeMB: build.diskMib,
    ...(build.envdVersion === null ? {} : { envdVersion: build.envdVersion }),
  }
}

/** Routes for the owner of a template: what it is, whether others may use it, how its builds went. */
export function templateDetailRoutes(app: ApiApp, { store, templates, hosts }: TemplateDetailParts): void {
  const checkIsolation = (template: Template, isolation: Isolation): void => {
    if (template.isSnapshot === 1) {
      throw new ApiError('badRequest', 'Sandboxes of a snapshot stay with the engine that it was taken on.')
    }
    const lacks = hosts.lackOf(isolation)
    if (lacks) throw new ApiError('badRequest', lacks)
  }

  app.get(
    '/templates/:templateID',
    {
      schema: {
        tags: ['templates'],
        params: TemplateParams,
        querystring: TemplateBuildsQuery,
        response: { 200: TemplateWithBuilds, ...errors(400, 401, 403, 404) },
      },
    },
    async (request, reply) => {
      const template = await templates.findOwn(teamOf(request), request.params.templateID)
      const described = await store.templates.describe(template)
      if (!described) throw new ApiError('notFound', `Template '${template.id}' has no build`)
      const { limit = MAX_PAGE, nextToken: token } = request.query
      const after = token ? parseNextToken(token, 'desc') : undefined
      const found = await store.templateBuilds.list(
        template.id,
        limit + 1,
        after && { createdAt: after.startedAt, id: after.id },
      )
      const shown = found.slice(0, limit)
      const last = shown.at(-1)
      if (found.length > limit && last) {
        reply.header('X-Next-Token', nextToken({ startedAt: last.createdAt, id: last.id }, 'desc'))
      }
      return { ...toTemplate(described), builds: shown.map(toBuild) }
    },
  )

  for (const url of ['/templates/:templateID', '/v2/templates/:templateID']) {
    app.patch(
      url,
      {
        schema: {
          tags: ['templates'],
          params: TemplateParams,
          body: TemplateChange,
          response: { 200: ChangedTemplate, ...errors(400, 401, 403, 404) },
        },
      },
      async (request) => {
        const template = await templates.findOwn(teamOf(request), request.params.templateID)
        const { public: isPublic, isolation } = request.body
        if (isolation !== undefined) checkIsolation(template, isolation)
        const change = {
          ...(isPublic === undefined ? {} : { isPublic: isPublic ? 1 : 0 }),
          ...(isolation === undefined ? {} : { isolation }),
        }
        if (Object.keys(change).length > 0) {
          await store.templates.update(template.id, { ...change, updatedAt: Date.now() })
        }
        return { names: [...((await store.templates.describe(template))?.names ?? [])] }
      },
    )
  }

  app.get(
    '/templates/:templateID/builds/:buildID/status',
    {
      schema: {
        tags: ['templates'],
        params: BuildParams,
        querystring: BuildStatusQuery,
        response: { 200: TemplateBuildInfo, ...errors(400, 401, 403, 404) },
      },
    },
    async (request) => {
      const { templateID, buildID } = request.params
      const template = await templates.findOwn(teamOf(request), templateID)
      const build = await store.templateBuilds.find(template.id, buildID)
      if (!build) throw new ApiError('badRequest', `Template '${templateID}' has no build '${buildID}'`)
      const { status } = build
      return {
        templateID: template.id,
        buildID: build.id,
        status,
        logs: [],
        logEntries: [],
        ...(build.reason === null ? {} : { reason: JSON.parse(build.reason) as { message: string } }),
      }
    },
  )

  app.get(
    '/templates/:templateID/builds/:buildID/logs',
    {
      schema: {
        tags: ['templates'],
        params: BuildParams,
        querystring: BuildLogsQuery,
        response: { 200: BuildLogs, ...errors(400, 401, 403, 404) },
      },
    },
    async (request) => {
      const { templateID, buildID } = request.params
      const template = await templates.findOwn(teamOf(request), templateID)
      const build = await store.templateBuilds.find(template.id, buildID)
      if (!build) throw new ApiError('notFound', `Template '${templateID}' has no build '${buildID}'`)
      const { cursor, level, limit = MAX_PAGE, direction = 'forward' } = request.query
      return { logs: buildLogs(build, { cursor, level, limit, direction }) }
    },
  )
}
