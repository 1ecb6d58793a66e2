import { create } from '@bufbuild/protobuf'
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect'
import {
  type Directory,
  type RouteChange,
  RouteChangeSchema,
  RouteSchema,
} from '@sandbox/contract/gen/directory/directory_pb'
import type { SandboxTokens } from './auth/tokens.ts'
import type { AutoResume } from './sandboxes/auto-resume.ts'
import type { RunningSandboxes } from './sandboxes/running.ts'

/** Changes that a watcher may lag behind; a slower one is cut off and starts over with an empty cache. */
const MAX_QUEUED_CHANGES = 100_000

/** Tells the edge where sandboxes are. */
export function createDirectory(
  running: RunningSandboxes,
  autoResume: AutoResume,
  tokens: SandboxTokens,
): ServiceImpl<typeof Directory> {
  return {
    async find(request) {
      const { sandboxId } = request
      const sandbox = await autoResume.find(request)
      const { ingress } = sandbox
      return create(RouteSchema, {
        sandboxId,
        address: sandbox.address,
        httpsPorts: [...ingress.httpsPorts],
        ...(ingress.isPrivate ? { trafficAccessToken: tokens.trafficToken(sandboxId) } : {}),
        ...(ingress.maskRequestHost ? { maskRequestHost: ingress.maskRequestHost } : {}),
      })
    },

    async *watch(_request, context) {
      const queue: RouteChange[] = [create(RouteChangeSchema, {})]
      let wake = (): void => {}
      const unsubscribe = running.subscribe((sandboxId, present) => {
        queue.push(create(RouteChangeSchema, { sandboxId, present }))
        wake()
      })
      context.signal.addEventListener('abort', () => wake(), { once: true })
      try {
        while (!context.signal.aborted) {
          if (queue.length > MAX_QUEUED_CHANGES) {
            throw new ConnectError('watcher is too slow: watch again', Code.ResourceExhausted)
          }
          yield* queue.splice(0)
          await new Promise<void>((resolve) => {
            wake = resolve
            if (queue.length > 0 || context.signal.aborted) resolve()
          })
        }
      } finally {
        unsubscribe()
      }
    },
  }
}
