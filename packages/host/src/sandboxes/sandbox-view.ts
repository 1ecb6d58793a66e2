import type { SandboxRecord } from './sandbox-record.ts'
import type { SandboxState } from './sandbox-states.ts'

/** What others see of a sandbox. */
export interface SandboxView {
  readonly sandboxId: string
  readonly state: SandboxState
  readonly address: string
  readonly startedAtMs: number
  readonly endAtMs: number
  readonly snapshotId: string
  readonly engine: string
}

export const viewOf = ({ id, state, cell, endAtMs, snapshotId }: SandboxRecord): SandboxView => ({
  sandboxId: id,
  state,
  address: cell?.slot.address ?? '',
  startedAtMs: cell?.startedAtMs ?? 0,
  endAtMs,
  snapshotId,
  engine: cell?.engine.name ?? '',
})
