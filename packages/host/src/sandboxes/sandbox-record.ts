import type { Cell } from '../cells/cells.ts'
import type { InstanceExit } from '../engines/engine.ts'
import type { SandboxState } from './sandbox-states.ts'

/** What `sandboxes.ts` knows of one sandbox. */
export interface SandboxRecord {
  readonly id: string
  readonly snapshotId: string
  readonly onEnd: 'kill' | 'pause'
  readonly pauseMemory: boolean
  readonly abort: AbortController
  state: SandboxState
  cell: Cell | undefined
  endAtMs: number
  /** Pauses at its end that failed since its end was last set. */
  pauseFailures: number
  /** Settles when the start or the snapshot under way has, whatever came of it. */
  settled: Promise<void>
  /** How its processes ended by themselves. */
  exit: InstanceExit | undefined
  ended: Promise<void> | undefined
}

/** The record of a sandbox that starts. */
export function newRecord(
  facts: Pick<SandboxRecord, 'id' | 'snapshotId' | 'onEnd' | 'pauseMemory' | 'endAtMs' | 'cell' | 'settled'>,
): SandboxRecord {
  return {
    ...facts,
    abort: new AbortController(),
    state: 'starting',
    pauseFailures: 0,
    exit: undefined,
    ended: undefined,
  }
}

const FIRST_PAUSE_RETRY_MS = 10_000
const LONGEST_PAUSE_RETRY_MS = 5 * 60_000

/** How long a pause at the end of a life waits after it failed `failures` times; the sandbox lives on meanwhile. */
export function pauseRetryMs(failures: number): number {
  return Math.min(FIRST_PAUSE_RETRY_MS * 2 ** Math.max(0, failures - 1), LONGEST_PAUSE_RETRY_MS)
}
