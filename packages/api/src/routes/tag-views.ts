import { ApiError } from '@sandbox/contract/errors'
import {
  type TagAssignment,
  TagAssignments,
  TagAssignmentsQuery,
  TagCount,
  TagExists,
  TagGroups,
  TagGroupsQuery,
  TagParams,
  TagQuery,
  TemplateParams,
} from '@sandbox/contract/rest/templates'
import type { Team, TemplateTag } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import type { TemplateResolver } from '../templates/resolver.ts'
import { errors } from './responses.ts'
import { parseTag } from './template-tags.ts'

const DEFAULT_TAGS_LIMIT = 25

export interface TagViewParts {
  readonly store: Store
  readonly templates: TemplateResolver
}

type Sort = 'name_asc' | 'name_desc' | 'latest_asc' | 'latest_desc'

const ORDERS: Record<Sort, (left: TemplateTag, right: TemplateTag) => number> = {
  name_asc: (left, right) => compare(left.tag, right.tag),
  name_desc: (left, right) => compare(right.tag, left.tag),
  latest_asc: (left, right) => left.assignedAt - right.assignedAt || compare(left.tag, right.tag),
  latest_desc: (left, right) => right.assignedAt - left.assignedAt || compare(left.tag, right.tag),
}

const compare = (left: string, right: string): number => (left < right ? -1 : left > right ? 1 : 0)

/** Routes that show the tags of a template in more detail: which there are, and what they point at. */
export function tagViewRoutes(app: ApiApp, { store, templates }: TagViewParts): void {
  const tagsOf = async (team: Team, text: string) => {
    const template = await templates.findTemplate(team, text)
    return { template, tags: await store.templateBuilds.listTags(template.id) }
  }
  const describe = async ({ templateId, tag, buildId, assignedAt }: TemplateTag): Promise<TagAssignment> => {
    const build = await store.templateBuilds.find(templateId, buildId)
    return {
      // Only the present assignment of a tag is kept.
      assignmentId: `${templateId}:${tag}`,
      buildId,
      assignedAt: new Date(assignedAt).toISOString(),
      buildCreatedAt: new Date(build?.createdAt ?? assignedAt).toISOString(),
      buildFinishedAt: build?.finishedAt ? new Date(build.finishedAt).toISOString() : null,
    }
  }
  const failures = errors(400, 401, 403, 404)

  app.get(
    '/templates/:templateID/tags/count',
    { schema: { tags: ['templates'], params: TemplateParams, response: { 200: TagCount, ...failures } } },
    async (request) => ({ total: (await tagsOf(teamOf(request), request.params.templateID)).tags.length }),
  )
  app.get(
    '/templates/:templateID/tags/exists',
    {
      schema: {
        tags: ['templates'],
        params: TemplateParams,
        querystring: TagQuery,
        response: { 200: TagExists, ...failures },
      },
    },
    async (request) => {
      const normalizedTag = parseTag(request.query.tag)
      const { tags } = await tagsOf(teamOf(request), request.params.templateID)
      return { exists: tags.some(({ tag }) => tag === normalizedTag), normalizedTag }
    },
  )
  app.get(
    '/templates/:templateID/tags/groups',
    {
      schema: {
        tags: ['templates'],
        params: TemplateParams,
        querystring: TagGroupsQuery,
        response: { 200: TagGroups, ...failures },
      },
    },
    async (request) => {
      const { search = '', sort = 'latest_desc', tagsLimit = DEFAULT_TAGS_LIMIT, tagsCursor } = request.query
      const { tags } = await tagsOf(teamOf(request), request.params.templateID)
      const found = tags.filter(({ tag }) => tag.includes(search.toLowerCase())).sort(ORDERS[sort])
      const cursorAt = found.findIndex(({ tag }) => tag === tagsCursor)
      // A page that began anew would never let its reader come to an end.
      if (tagsCursor && cursorAt === -1) throw new ApiError('badRequest', 'Invalid tagsCursor')
      const rest = found.slice(cursorAt + 1)
      const shown = rest.slice(0, tagsLimit)
      const groups = shown.map(async (tag) => ({
        tag: tag.tag,
        assignments: [await describe(tag)],
        hasMore: false,
      }))
      return {
        tags: await Promise.all(groups),
        nextCursor: rest.length > shown.length ? (shown.at(-1)?.tag ?? null) : null,
      }
    },
  )
  app.get(
    '/templates/:templateID/tags/:tag/assignments',
    {
      schema: {
        tags: ['templates'],
        params: TagParams,
        querystring: TagAssignmentsQuery,
        response: { 200: TagAssignments, ...failures },
      },
    },
    async (request) => {
      const wanted = parseTag(request.params.tag)
      const { tags } = await tagsOf(teamOf(request), request.params.templateID)
      const assigned = tags.filter(({ tag }) => tag === wanted)
      return { data: await Promise.all(assigned.map(describe)), nextCursor: null }
    },
  )
}
