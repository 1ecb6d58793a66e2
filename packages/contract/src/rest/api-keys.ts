import { type Static, Type } from 'typebox'

/** API keys of a team. A key itself is shown once, when it is created. */

const Mask = Type.Object({
  prefix: Type.String(),
  valueLength: Type.Integer(),
  maskedValuePrefix: Type.String(),
  maskedValueSuffix: Type.String(),
})

const Creator = Type.Union([Type.Object({ id: Type.String(), email: Type.String() }), Type.Null()])

export const TeamApiKey = Type.Object({
  id: Type.String(),
  name: Type.String(),
  mask: Mask,
  createdAt: Type.String({ format: 'date-time' }),
  createdBy: Creator,
  lastUsed: Type.Union([Type.String({ format: 'date-time' }), Type.Null()]),
})
export type TeamApiKey = Static<typeof TeamApiKey>

export const CreatedTeamApiKey = Type.Object({ ...TeamApiKey.properties, key: Type.String() })

/** Body of POST /api-keys and PATCH /api-keys/{id}. */
export const ApiKeyName = Type.Object({
  name: Type.String({ minLength: 1, maxLength: 255, pattern: '^[^\\0]*$' }),
})

export const ApiKeyParams = Type.Object({ apiKeyID: Type.String() })
