import { ApiError } from '@sandbox/contract/errors'
import {
  AssignedTags,
  AssignTags,
  RemoveTags,
  TemplateParams,
  TemplateTag,
} from '@sandbox/contract/rest/templates'
import type { Store } from '@sandbox/store/store'
import { Type } from 'typebox'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import { DEFAULT_TAG, parseTemplateName, type TemplateResolver, tagNotFound } from '../templates/resolver.ts'
import { errors, NoContent } from './responses.ts'

const TAG = /^[a-z0-9_.-]{1,128}$/
/** A tag that could be taken for a build is refused. */
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

export interface TemplateTagRouteParts {
  readonly store: Store
  readonly templates: TemplateResolver
}

/** A tag as it is kept. @throws ApiError 400 */
export function parseTag(text: string): string {
  const tag = text.trim().toLowerCase()
  if (!TAG.test(tag))
    throw new ApiError('badRequest', `Invalid tag '${text}': use a-z, 0-9, '.', '-' and '_'`)
  if (UUID.test(tag)) throw new ApiError('badRequest', `Invalid tag '${text}': a tag cannot be a UUID`)
  return tag
}

/** Routes of the tags that point at builds of templates. */
export function templateTagRoutes(app: ApiApp, { store, templates }: TemplateTagRouteParts): void {
  app.get(
    '/templates/:templateID/tags',
    {
      schema: {
        tags: ['templates'],
        params: TemplateParams,
        response: { 200: Type.Array(TemplateTag), ...errors(400, 401, 403, 404) },
      },
    },
    async (request) => {
      const template = await templates.findTemplate(teamOf(request), request.params.templateID)
      const tags = await store.templateBuilds.listTags(template.id)
      return tags.map(({ tag, buildId, assignedAt }) => ({
        tag,
        buildID: buildId,
        createdAt: new Date(assignedAt).toISOString(),
      }))
    },
  )
  app.post(
    '/templates/tags',
    {
      schema: {
        tags: ['templates'],
        body: AssignTags,
        response: { 201: AssignedTags, ...errors(400, 401, 403, 404) },
      },
    },
    async (request, reply) => {
      const { target } = request.body
      const tags = [...new Set(request.body.tags.map(parseTag))]
      const template = await templates.findOwn(teamOf(request), target)
      const { tag: from = DEFAULT_TAG } = parseTemplateName(target)
      const build = await store.templateBuilds.findByTag(template.id, from)
      if (!build) throw tagNotFound(target, from)
      const assigned = { templateId: template.id, buildId: build.id, assignedAt: Date.now() }
      await store.templateBuilds.assignTags(tags.map((tag) => ({ ...assigned, tag })))
      return reply.code(201).send({ tags, buildID: build.id })
    },
  )
  app.delete(
    '/templates/tags',
    {
      schema: {
        tags: ['templates'],
        body: RemoveTags,
        response: { 204: NoContent, ...errors(400, 401, 403, 404) },
      },
    },
    async (request, reply) => {
      const { name } = request.body
      if (parseTemplateName(name).tag !== undefined) {
        throw new ApiError('badRequest', `'${name}' must not contain a tag: give the tags in 'tags'`)
      }
      const tags = [...new Set(request.body.tags.map(parseTag))]
      if (tags.includes(DEFAULT_TAG))
        throw new ApiError('badRequest', `Tag '${DEFAULT_TAG}' cannot be removed`)
      const template = await templates.findOwn(teamOf(request), name)
      await store.templateBuilds.deleteTags(template.id, tags)
      return reply.code(204).send(null)
    },
  )
}
