import { ApiError } from '@sandbox/contract/errors'
import { LegacySandboxListQuery, ListedSandbox, SandboxListQuery } from '@sandbox/contract/rest/sandboxes'
import type { SandboxFilter } from '@sandbox/store/sandboxes'
import type { SandboxRowState, Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import { type Static, Type } from 'typebox'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import { parseMetadataFilter } from '../http/metadata-filter.ts'
import { nextToken, parseNextToken } from '../http/pagination.ts'
import type { Answers } from '../sandboxes/answers.ts'
import type { RunningSandboxes } from '../sandboxes/running.ts'
import { parseTemplateName, type TemplateResolver } from '../templates/resolver.ts'
import { errors } from './responses.ts'

const MAX_PAGE = 100
const MAX_UNPAGED = 5_000
const STATES = ['running', 'paused'] as const
const ROW_STATES: Record<(typeof STATES)[number], readonly SandboxRowState[]> = {
  running: ['running'],
  paused: ['pausing', 'paused'],
}

export interface SandboxListParts {
  readonly store: Store
  readonly answers: Answers
  readonly running: RunningSandboxes
  readonly templates: TemplateResolver
}

/** Routes that list sandboxes. */
export function sandboxListRoutes(app: ApiApp, parts: SandboxListParts): void {
  const { store, answers, running } = parts
  const isVisible = ({ id }: { id: string }): boolean => running.get(id)?.phase !== 'killing'

  app.get(
    '/v2/sandboxes',
    {
      schema: {
        tags: ['sandboxes'],
        querystring: SandboxListQuery,
        response: { 200: Type.Array(ListedSandbox), ...errors(400, 401) },
      },
    },
    async (request, reply) => {
      const { query } = request
      const { order = 'desc', limit = MAX_PAGE } = query
      const after = query.nextToken ? parseNextToken(query.nextToken, order) : undefined
      const filter = await readFilter(parts, teamOf(request), query)
      if (wantsState(query.state, 'running')) {
        const total = filter ? await store.sandboxes.count({ ...filter, states: ['running'] }) : 0
        reply.header('X-Total-Running', String(total))
      }
      if (!filter) return []
      const page = { order, limit: limit + 1, ...(after ? { after } : {}) }
      const rows = await store.sandboxes.list(filter, page)
      const shown = rows.slice(0, limit)
      const last = shown.at(-1)
      if (rows.length > limit && last) reply.header('X-Next-Token', nextToken(last, order))
      return shown.filter(isVisible).map((row) => answers.listed(row))
    },
  )

  app.get(
    '/sandboxes',
    {
      schema: {
        tags: ['sandboxes'],
        deprecated: true,
        querystring: LegacySandboxListQuery,
        response: { 200: Type.Array(ListedSandbox), ...errors(400, 401) },
      },
    },
    async (request) => {
      const metadata = request.query.metadata ? parseMetadataFilter(request.query.metadata) : {}
      const filter: SandboxFilter = { teamId: teamOf(request).id, states: ['running'], metadata }
      const rows = await store.sandboxes.list(filter, { order: 'desc', limit: MAX_UNPAGED + 1 })
      if (rows.length > MAX_UNPAGED) {
        throw new ApiError(
          'badRequest',
          `More than ${MAX_UNPAGED} sandboxes match: use GET /v2/sandboxes, which pages.`,
        )
      }
      return rows.filter(isVisible).map((row) => answers.listed(row))
    },
  )
}

/** No `state` asks for all. */
const wantsState = (asked: string | undefined, state: (typeof STATES)[number]): boolean =>
  asked === undefined || asked.split(',').includes(state)

/** @throws ApiError 400 for what has the form of a time and is none, as a leap second */
function parseTime(text: string): number {
  const time = Date.parse(text)
  if (Number.isNaN(time)) throw new ApiError('badRequest', `Invalid startedAfter '${text}'`)
  return time
}

/** Undefined when nothing can match because the template is unknown. */
async function readFilter(
  { templates }: SandboxListParts,
  team: Team,
  query: Static<typeof SandboxListQuery>,
): Promise<SandboxFilter | undefined> {
  const templateId =
    query.template === undefined ? undefined : await findTemplateId(templates, team, query.template)
  if (templateId === null) return undefined
  return {
    teamId: team.id,
    states: STATES.filter((state) => wantsState(query.state, state)).flatMap((state) => ROW_STATES[state]),
    ...(query.metadata ? { metadata: parseMetadataFilter(query.metadata) } : {}),
    ...(query.startedAfter ? { startedAfter: parseTime(query.startedAfter) } : {}),
    ...(templateId ? { templateId } : {}),
  }
}

async function findTemplateId(templates: TemplateResolver, team: Team, text: string): Promise<string | null> {
  if (parseTemplateName(text).tag !== undefined) {
    throw new ApiError('badRequest', `The template filter takes no tag: '${text}'`)
  }
  try {
    return (await templates.findTemplate(team, text)).id
  } catch (error) {
    if (error instanceof ApiError && (error.status === 404 || error.status === 403)) return null
    throw error
  }
}
