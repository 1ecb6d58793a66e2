import { type Static, Type } from 'typebox'
import { LogLevel } from './logs.ts'

/** Template bodies of the REST API. Memory and disk are MiB. */

const Author = Type.Union([Type.Object({ id: Type.String(), email: Type.String() }), Type.Null()])

/** Engine that sandboxes of a template run on; `auto` is each machine's own. Not part of E2B's API. */
export const Isolation = Type.Union([
  Type.Literal('auto'),
  Type.Literal('microvm'),
  Type.Literal('gvisor'),
  Type.Literal('container'),
])
export type Isolation = Static<typeof Isolation>

export const Template = Type.Object({
  templateID: Type.String(),
  buildID: Type.String(),
  cpuCount: Type.Integer({ minimum: 1 }),
  memoryMB: Type.Integer({ minimum: 128 }),
  diskSizeMB: Type.Integer({ minimum: 0 }),
  public: Type.Boolean(),
  createdAt: Type.String({ format: 'date-time' }),
  updatedAt: Type.String({ format: 'date-time' }),
  createdBy: Author,
  lastSpawnedAt: Type.Union([Type.String({ format: 'date-time' }), Type.Null()]),
  spawnCount: Type.Integer(),
  buildCount: Type.Integer(),
  envdVersion: Type.String(),
  aliases: Type.Array(Type.String(), { deprecated: true }),
  names: Type.Array(Type.String()),
  buildStatus: Type.String(),
  isDefault: Type.Optional(Type.Boolean()),
  description: Type.Optional(Type.String()),
  isolation: Type.Optional(Type.String()),
})
export type Template = Static<typeof Template>

/** Query of GET /templates. */
export const TemplateListQuery = Type.Object({ teamID: Type.Optional(Type.String()) })

/** Query of GET /v2/templates. */
export const PagedTemplateListQuery = Type.Object({
  teamID: Type.Optional(Type.String()),
  nextToken: Type.Optional(Type.String()),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 100 })),
})

export const AliasParams = Type.Object({ alias: Type.String({ minLength: 1 }) })

/** What GET /templates/aliases/{alias} answers. */
export const TemplateAlias = Type.Object({ templateID: Type.String(), public: Type.Boolean() })

/** Path parameter of one template: id or name, URL-encoded. */
export const TemplateParams = Type.Object({ templateID: Type.String({ minLength: 1 }) })

/** An element of GET /templates/{id}/tags. */
export const TemplateTag = Type.Object({
  tag: Type.String(),
  buildID: Type.String(),
  createdAt: Type.String({ format: 'date-time' }),
})

/** Body of POST /templates/tags. */
export const AssignTags = Type.Object({
  target: Type.String({ minLength: 1, description: 'name[:tag]: the build that gets the tags' }),
  tags: Type.Array(Type.String(), { minItems: 1 }),
})

export const AssignedTags = Type.Object({ tags: Type.Array(Type.String()), buildID: Type.String() })

/** Body of DELETE /templates/tags. */
export const RemoveTags = Type.Object({
  name: Type.String({ minLength: 1 }),
  tags: Type.Array(Type.String(), { minItems: 1 }),
})

const BuildStatus = Type.Union([
  Type.Literal('waiting'),
  Type.Literal('building'),
  Type.Literal('ready'),
  Type.Literal('error'),
])

/** A build of a template. */
export const TemplateBuild = Type.Object({
  buildID: Type.String(),
  status: BuildStatus,
  createdAt: Type.String({ format: 'date-time' }),
  updatedAt: Type.String({ format: 'date-time' }),
  finishedAt: Type.Optional(Type.String({ format: 'date-time' })),
  cpuCount: Type.Integer({ minimum: 1 }),
  memoryMB: Type.Integer({ minimum: 128 }),
  diskSizeMB: Type.Optional(Type.Integer({ minimum: 0 })),
  envdVersion: Type.Optional(Type.String()),
})
export type TemplateBuild = Static<typeof TemplateBuild>

/** What GET /templates/{templateID} answers; builds newest first. */
export const TemplateWithBuilds = Type.Object({
  ...Template.properties,
  builds: Type.Array(TemplateBuild),
})

/** Query of the pages of builds. */
export const TemplateBuildsQuery = Type.Object({
  nextToken: Type.Optional(Type.String()),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 100 })),
})

/** Body of PATCH /v2/templates/{templateID}. */
export const TemplateChange = Type.Object({
  public: Type.Optional(Type.Boolean()),
  isolation: Type.Optional(Isolation),
})

export const ChangedTemplate = Type.Object({ names: Type.Array(Type.String()) })

export const TagCount = Type.Object({ total: Type.Integer() })

/** Query of GET /templates/{templateID}/tags/exists. */
export const TagQuery = Type.Object({ tag: Type.String({ minLength: 1 }) })
export const TagExists = Type.Object({ exists: Type.Boolean(), normalizedTag: Type.String() })

/** That a tag pointed at a build from a moment on. */
export const TagAssignment = Type.Object({
  assignmentId: Type.String(),
  buildId: Type.String(),
  assignedAt: Type.String({ format: 'date-time' }),
  buildCreatedAt: Type.String({ format: 'date-time' }),
  buildFinishedAt: Type.Union([Type.String({ format: 'date-time' }), Type.Null()]),
})
export type TagAssignment = Static<typeof TagAssignment>

/** Query of GET /templates/{templateID}/tags/groups. */
export const TagGroupsQuery = Type.Object({
  assignmentLimit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 6 })),
  tagsLimit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 25 })),
  tagsCursor: Type.Optional(Type.String()),
  search: Type.Optional(Type.String({ maxLength: 128 })),
  sort: Type.Optional(
    Type.Union([
      Type.Literal('name_asc'),
      Type.Literal('name_desc'),
      Type.Literal('latest_asc'),
      Type.Literal('latest_desc'),
    ]),
  ),
})

const Cursor = Type.Union([Type.String(), Type.Null()])

export const TagGroups = Type.Object({
  tags: Type.Array(
    Type.Object({ tag: Type.String(), assignments: Type.Array(TagAssignment), hasMore: Type.Boolean() }),
  ),
  nextCursor: Cursor,
})

/** Path of the assignments of one tag. */
export const TagParams = Type.Object({
  templateID: Type.String({ minLength: 1 }),
  tag: Type.String({ minLength: 1 }),
})
export const TagAssignmentsQuery = Type.Object({
  cursor: Type.Optional(Type.String()),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 50 })),
})
export const TagAssignments = Type.Object({ data: Type.Array(TagAssignment), nextCursor: Cursor })

const BuildLogEntry = Type.Object({
  timestamp: Type.String({ format: 'date-time' }),
  message: Type.String(),
  level: Type.String(),
  step: Type.Optional(Type.String()),
})

export const BuildParams = Type.Object({
  templateID: Type.String({ minLength: 1 }),
  buildID: Type.String({ minLength: 1 }),
})

/** Query of GET /templates/{templateID}/builds/{buildID}/status. */
export const BuildStatusQuery = Type.Object({
  logsOffset: Type.Optional(Type.Integer({ minimum: 0, default: 0 })),
  limit: Type.Optional(Type.Integer({ minimum: 0, maximum: 100, default: 100 })),
  level: Type.Optional(Type.String()),
})

/** Query of GET /templates/{templateID}/builds/{buildID}/logs; `cursor` is milliseconds since 1970. */
export const BuildLogsQuery = Type.Object({
  cursor: Type.Optional(Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })),
  limit: Type.Optional(Type.Integer({ minimum: 0, maximum: 100, default: 100 })),
  direction: Type.Optional(Type.Union([Type.Literal('forward'), Type.Literal('backward')])),
  level: Type.Optional(LogLevel),
  source: Type.Optional(Type.Union([Type.Literal('temporary'), Type.Literal('persistent')])),
})

export const BuildLogs = Type.Object({ logs: Type.Array(BuildLogEntry) })
export type BuildLogEntry = Static<typeof BuildLogEntry>

export const TemplateBuildInfo = Type.Object({
  templateID: Type.String(),
  buildID: Type.String(),
  status: BuildStatus,
  logs: Type.Array(Type.String(), { deprecated: true }),
  logEntries: Type.Array(BuildLogEntry),
  reason: Type.Optional(
    Type.Object({
      message: Type.String(),
      step: Type.Optional(Type.String()),
      logEntries: Type.Optional(Type.Array(BuildLogEntry)),
    }),
  ),
})
