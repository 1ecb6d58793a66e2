import { constants } from 'node:os'

/** How a process ended, in the words of Go's `os.ProcessState`, which clients see. */
export interface ExitStatus {
  /** -1 when a signal ended the process. */
  readonly exitCode: number
  /** True when the process ended by itself. */
  readonly exited: boolean
  readonly status: string
  /** Absent only for exit code 0. */
  readonly error?: string
}

const SIGNAL_WORDS = new Map([
  [1, 'hangup'],
  [2, 'interrupt'],
  [3, 'quit'],
  [4, 'illegal instruction'],
  [5, 'trace/breakpoint trap'],
  [6, 'aborted'],
  [7, 'bus error'],
  [8, 'floating point exception'],
  [9, 'killed'],
  [10, 'user defined signal 1'],
  [11, 'segmentation fault'],
  [12, 'user defined signal 2'],
  [13, 'broken pipe'],
  [14, 'alarm clock'],
  [15, 'terminated'],
])

/** @param code exit code, null when `signal` ended the process */
export function exitStatus(code: number | null, signal: NodeJS.Signals | null): ExitStatus {
  if (code !== null) {
    const status = `exit status ${code}`
    return { exitCode: code, exited: true, status, ...(code === 0 ? {} : { error: status }) }
  }
  const number = signal ? constants.signals[signal] : 0
  const status = `signal: ${SIGNAL_WORDS.get(number) ?? `signal ${number}`}`
  return { exitCode: -1, exited: false, status, error: status }
}
