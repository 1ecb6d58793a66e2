import type { Resources } from '@sandbox/contract/gen/host/host_pb'
import type { Limits } from './engines/engine.ts'

/** Limits from the wire, where 0 means that the default holds. */
export const limitsFrom = (resources: Resources | undefined, fallback: Limits): Limits => ({
  cpuCount: resources?.cpuCount || fallback.cpuCount,
  memoryMib: resources?.memoryMib || fallback.memoryMib,
  diskMib: resources?.diskMib || fallback.diskMib,
  pids: resources?.pids || fallback.pids,
})
