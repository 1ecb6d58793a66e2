import type { Resources } from '@sandbox/contract/gen/host/host_pb'
import type { Limits } from './engines/engine.ts'

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
