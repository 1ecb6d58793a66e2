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
