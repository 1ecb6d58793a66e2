import { ApiError } from '@sandbox/contract/errors'
import {
  AliasParams,
  PagedTemplateListQuery,
  Template,
  TemplateAlias,
  TemplateListQuery,
} from '@sandbox/contract/rest/templates'
import type { Store } from '@sandbox/store/store'
import type { DescribedTemplate } from '@sandbox/store/templates'
import { Type } from 'typebox'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import { nextToken, parseNextToken } from '../http/pagination.ts'
import { parseTemplateName, type TemplateResolver, tagNotFound } from '../templates/resolver.ts'
import { errors } from './responses.ts'

const MAX_PAGE = 100
const MAX_UNPAGED = 5_000

export interface TemplateRouteParts {
  readonly store: Store
  readonly templates: TemplateResolver
}

/** A template as lists show it. */
export function toTemplate({ template, build, aliases, names, buildCount }: DescribedTemplate): Template {
  return {
    templateID: template.id,
    buildID: build.id,
    cpuCount: build.cpuCount,
    memoryMB: build.memoryMib,
    diskSizeMB: build.diskMib,
    public: template.isPublic === 1,
    createdAt: new Date(template.createdAt).toISOString(),
    updatedAt: new Date(template.updatedAt).toISOString(),
    createdBy: null,
    lastSpawnedAt: template.lastSpawnedAt === null ? null : new Date(template.lastSpawnedAt).toISOString(),
    spawnCount: template.spawnCount,
    buildCount,
    envdVersion: build.envdVersion ?? '',
    aliases: [...aliases],
    names: [...names],
    buildStatus: build.status,
    isDefault: template.isDefault === 1,
    // A snapshot's sandboxes stay with the engine that it was taken on, which is not known here.
    ...(template.isSnapshot === 1 ? {} : { isolation: template.isolation ?? 'auto' }),
  }
}

function checkTeam(teamId: string, wanted: string | undefined): void {
  if (wanted !== undefined && wanted !== teamId && wanted !== `prj_${teamId}`) {
    throw new ApiError('forbidden', 'This API key belongs to another team.')
  }
}

/** Routes that read templates. */
export function templateRoutes(app: ApiApp, { store, templates }: TemplateRouteParts): void {
  const list = { 200: Type.Array(Template), ...errors(400, 401, 403) }

  app.get(
    '/templates',
    { schema: { tags: ['templates'], querystring: TemplateListQuery, response: list } },
    async (request) => {
      const teamId = teamOf(request).id
      checkTeam(teamId, request.query.teamID)
      const found = await store.templates.list({ teamId, limit: MAX_UNPAGED + 1 })
      if (found.length > MAX_UNPAGED) {
        throw new ApiError(
          'badRequest',
          `More than ${MAX_UNPAGED} templates: use GET /v2/templates, which pages.`,
        )
      }
      return found.map(toTemplate)
    },
  )

  app.get(
    '/v2/templates',
    { schema: { tags: ['templates'], querystring: PagedTemplateListQuery, response: list } },
    async (request, reply) => {
      const teamId = teamOf(request).id
      checkTeam(teamId, request.query.teamID)
      const { limit = MAX_PAGE, nextToken: token } = request.query
      const after = token ? { afterId: parseNextToken(token, 'asc').id } : {}
      const found = await store.templates.list({ teamId, limit: limit + 1, ...after })
      const shown = found.slice(0, limit)
      const last = shown.at(-1)?.template
      if (found.length > limit && last) {
        reply.header('X-Next-Token', nextToken({ startedAt: last.createdAt, id: last.id }, 'asc'))
      }
      return shown.map(toTemplate)
    },
  )

  app.get('/default-templates', { schema: { tags: ['templates'], response: list } }, async () => {
    const found = await store.templates.list({ onlyDefault: true, limit: MAX_UNPAGED })
    return found.map(toTemplate)
  })

  app.get(
    '/templates/aliases/:alias',
    {
      schema: {
        tags: ['templates'],
        params: AliasParams,
        response: { 200: TemplateAlias, ...errors(400, 401, 403, 404) },
      },
    },
    async (request) => {
      const { alias } = request.params
      const template = await templates.findTemplate(teamOf(request), alias)
      const { tag } = parseTemplateName(alias)
      if (tag !== undefined && !(await store.templateBuilds.findByTag(template.id, tag))) {
        throw tagNotFound(alias, tag)
      }
      return { templateID: template.id, public: template.isPublic === 1 }
    },
  )
}
