import { Type } from 'typebox'

/** What GET /teams answers for each team of the caller. */
export const Team = Type.Object({
  teamID: Type.String(),
  name: Type.String(),
  apiKey: Type.String(),
  isDefault: Type.Boolean(),
})
