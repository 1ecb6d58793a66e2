import { kernelRandomBytes, newUuid } from '@sandbox/contract/ids'
import type { InitBody } from '../agent/agent-client.ts'
import { eventsAddress } from '../slots/slots.ts'
import type { SnapshotConfig } from '../snapshots/snapshots.ts'

/** Entropy handed to every user-space generator of a clone. */
const RESEED_BYTES = 64

export interface IdentityRequest {
  sandboxId: string
  templateId: string
  envVars: Readonly<Record<string, string>>
  envdAccessToken: string | undefined
}

/**
 * What a freshly started clone is told about itself. Its secrets come from this machine's kernel, none from the image.
 * No timestamp: this host is the only caller and calls in order, and a clock that was set back must not make the agent
 * ignore who it is.
 */
export function cloneIdentity(
  request: IdentityRequest,
  config: Pick<SnapshotConfig, 'envVars' | 'user' | 'workdir'>,
): InitBody {
  return {
    ...resumedIdentity(request, config),
    machineId: newUuid().replaceAll('-', ''),
    bootId: newUuid(),
    generation: newUuid(),
    reseed: kernelRandomBytes(RESEED_BYTES).toString('hex'),
  }
}

/** What a sandbox is told that goes on where it was paused: its processes notice nothing. */
export function resumedIdentity(
  request: IdentityRequest,
  config: Pick<SnapshotConfig, 'envVars' | 'user' | 'workdir'>,
): InitBody {
  const { sandboxId, templateId, envdAccessToken } = request
  return {
    envVars: {
      ...config.envVars,
      ...request.envVars,
      E2B_SANDBOX: 'true',
      E2B_SANDBOX_ID: sandboxId,
      E2B_TEMPLATE_ID: templateId,
    },
    ...(envdAccessToken === undefined ? {} : { accessToken: envdAccessToken }),
    defaultUser: config.user,
    defaultWorkdir: config.workdir,
    hostname: sandboxId,
    sandboxId,
    templateId,
    hyperloopIP: eventsAddress,
  }
}
