/** A template for tests to which it does not matter what a sandbox has. */
import type { Limits } from '../engines/engine.ts'
import type { SnapshotConfig } from '../snapshots/snapshots.ts'

export const plainLimits: Limits = { cpuCount: 1, memoryMib: 128, diskMib: 64, pids: 64 }

export const plainConfig: SnapshotConfig = {
  envVars: {},
  user: 'user',
  workdir: '',
  startCmd: '',
  readyCmd: '',
  beforeCapture: [],
  limits: plainLimits,
}
