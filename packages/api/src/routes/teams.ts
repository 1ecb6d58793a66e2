import { Team } from '@sandbox/contract/rest/teams'
import { Type } from 'typebox'
import { presentedKey, teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import { errors } from './responses.ts'

/** GET /teams, which the CLI asks at login: the team of the presented key. */
export function teamRoutes(app: ApiApp): void {
  app.get(
    '/teams',
    { schema: { tags: ['teams'], response: { 200: Type.Array(Team), ...errors(401) } } },
    async (request) => {
      const { id, name } = teamOf(request)
      return [{ teamID: id, name, apiKey: presentedKey(request) ?? '', isDefault: true }]
    },
  )
}
