import { SandboxNetworkUpdate } from '@sandbox/contract/rest/network'
import { SandboxParams } from '@sandbox/contract/rest/sandboxes'
import { teamOf } from '../auth/authenticate.ts'
import type { ApiApp } from '../http/app.ts'
import type { NetworkUpdates } from '../sandboxes/network-updates.ts'
import { emptyBodyAsObject, parseSandboxId } from './requests.ts'
import { errors, NoContent } from './responses.ts'

/** The route that changes what a running sandbox may reach. */
export function networkRoutes(app: ApiApp, updates: NetworkUpdates): void {
  app.put(
    '/sandboxes/:sandboxID/network',
    {
      schema: {
        tags: ['sandboxes'],
        params: SandboxParams,
        body: SandboxNetworkUpdate,
        response: { 204: NoContent, ...errors(400, 401, 403, 404, 409, 500, 503) },
      },
      preValidation: emptyBodyAsObject,
    },
    async (request, reply) => {
      await updates.replace(teamOf(request), parseSandboxId(request.params.sandboxID), request.body)
      return reply.code(204).send(null)
    },
  )
}
