import type { Resources } from '@sandbox/contract/gen/host/host_pb'
import type { Limits } from '../engines/engine.ts'

/** What a request may ask for; what it leaves out comes from the snapshot or the host. */
export type AskedLimits = Partial<Limits>

/** Limits from the wire, where 0 means not asked for. */
export function askedLimits(resources: Resources | undefined): AskedLimits {
  const { cpuCount = 0, memoryMib = 0, diskMib = 0, pids = 0 } = resources ?? {}
  return {
    ...(cpuCount > 0 ? { cpuCount } : {}),
    ...(memoryMib > 0 ? { memoryMib } : {}),
    ...(diskMib > 0 ? { diskMib } : {}),
    ...(pids > 0 ? { pids } : {}),
  }
}

/** Processes and threads kept for the agent and what it is asked to start when a guest has used up its own. */
const AGENT_PROCESSES = 32
/** Below this a guest could hardly run anything: small limits are not divided. */
const MIN_DIVIDED_PROCESSES = 128

/** How many processes and threads of one user a guest may have, out of those of its sandbox. */
export const guestProcesses = (pids: number): number =>
  pids < MIN_DIVIDED_PROCESSES ? pids : pids - AGENT_PROCESSES
