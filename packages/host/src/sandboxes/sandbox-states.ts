/** The states of a user's sandbox and every way between them. `sandboxes.ts` is the only writer. */
export type SandboxState = 'starting' | 'running' | 'pausing' | 'snapshotting' | 'killing' | 'gone'

const TRANSITIONS: Readonly<Record<SandboxState, readonly SandboxState[]>> = {
  starting: ['running', 'killing'],
  running: ['pausing', 'snapshotting', 'killing'],
  // Back to running when the capture failed.
  pausing: ['running', 'killing', 'gone'],
  snapshotting: ['running', 'killing'],
  killing: ['gone'],
  gone: [],
}

export const canMove = (from: SandboxState, to: SandboxState): boolean => TRANSITIONS[from].includes(to)

/** @throws Error for a transition that is not in the table: a programming error, never an operating one */
export function assertMove(sandboxId: string, from: SandboxState, to: SandboxState): void {
  if (!canMove(from, to)) throw new Error(`sandbox ${sandboxId} cannot go from ${from} to ${to}`)
}

/** Why a sandbox is gone. */
export type EndReason = 'killed' | 'timeout' | 'exited' | 'out_of_memory' | 'lost' | 'paused'
