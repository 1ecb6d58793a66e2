import { type Static, Type } from 'typebox'

/** Template bodies of the REST API. Memory and disk are MiB. */

const Author = Type.Union([Type.Object({ id: Type.String(), email: Type.String() }), Type.Null()])

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
