import type { AgentClient } from './agent-client.ts'
import { runCommand } from './agent-process.ts'
import { HostError } from './host-error.ts'
import type { SnapshotConfig } from './snapshots.ts'

/** After a cold boot: starts what the template starts and waits until it says that it is ready. */

/** Between two tries of the ready command. */
const READY_PAUSE_MS = 200
const READY_WITHIN_MS = 10 * 60_000
const START_WITHIN_MS = 30_000

export interface ServicesUpOptions {
  signal?: AbortSignal
  onLine?: (level: 'info' | 'debug', message: string) => void
}

/** @throws HostError failed when the start command cannot be started or is not ready within ten minutes */
export async function bringServicesUp(
  agent: AgentClient,
  config: SnapshotConfig,
  options: ServicesUpOptions = {},
): Promise<void> {
  if (config.startCmd) {
    options.onLine?.('info', `Running start command: ${config.startCmd}`)
    await startSupervised(agent, config)
  }
  if (config.readyCmd) {
    options.onLine?.('info', `Waiting for ready command: ${config.readyCmd}`)
    await waitReady(agent, config, options)
  }
}

/** The agent starts it, and again if it ends. */
async function startSupervised(agent: AgentClient, config: SnapshotConfig): Promise<void> {
  const { startCmd, user, workdir } = config
  const json = { cmd: startCmd, user, cwd: workdir }
  const answer = await agent.send({ method: 'POST', path: '/start', json, timeoutMs: START_WITHIN_MS })
  if (answer.status >= 300) {
    const said = answer.body.slice(0, 500)
    throw new HostError('failed', `the start command could not be started (${answer.status}): ${said}`)
  }
}

async function waitReady(
  agent: AgentClient,
  config: SnapshotConfig,
  options: ServicesUpOptions,
): Promise<void> {
  const endsAtMs = performance.now() + READY_WITHIN_MS
  const command = {
    cmd: '/bin/bash',
    args: ['-l', '-c', config.readyCmd],
    user: config.user,
    cwd: config.workdir,
    envs: {},
  }
  let said = ''
  for (;;) {
    const { exitCode } = await runCommand(
      agent.address,
      command,
      (_stream, line) => (said = line),
      options.signal,
    )
    if (exitCode === 0) return
    if (performance.now() > endsAtMs) {
      throw new HostError(
        'failed',
        `the ready command did not succeed within ten minutes; it said last: ${said}`,
      )
    }
    await new Promise((resolve) => setTimeout(resolve, READY_PAUSE_MS))
  }
}
