import { HostError } from '../host-error.ts'
import type { SnapshotConfig } from '../snapshots/snapshots.ts'
import type { AgentClient } from './agent-client.ts'

const READY_WITHIN_MS = 10 * 60_000
/** The agent bounds the wait itself and says why; this is for an agent that does not. */
const ANSWER_WITHIN_MS = READY_WITHIN_MS + 10_000

export interface ServicesUpOptions {
  signal?: AbortSignal
  onLine?: (level: 'info' | 'debug', message: string) => void
}

/**
 * After a cold boot: the agent starts the services of the image and the start command, and answers once the ready
 * command has succeeded.
 * @throws HostError failed when something ends before it is ready, or is not ready within ten minutes
 */
export async function bringServicesUp(
  agent: AgentClient,
  config: SnapshotConfig,
  options: ServicesUpOptions = {},
): Promise<void> {
  const { startCmd, readyCmd, user, workdir } = config
  if (startCmd) options.onLine?.('info', `Running start command: ${startCmd}`)
  if (readyCmd) options.onLine?.('info', `Waiting for ready command: ${readyCmd}`)
  const answer = await agent.send({
    method: 'POST',
    path: '/start',
    json: {
      ...(startCmd ? { cmd: startCmd } : {}),
      ...(readyCmd ? { readyCmd } : {}),
      user,
      workdir,
      readyTimeoutMs: READY_WITHIN_MS,
    },
    timeoutMs: ANSWER_WITHIN_MS,
    ...(options.signal ? { signal: options.signal } : {}),
  })
  if (answer.status >= 300) {
    throw new HostError('failed', `the start command failed (${answer.status}): ${answer.body.slice(0, 500)}`)
  }
}
