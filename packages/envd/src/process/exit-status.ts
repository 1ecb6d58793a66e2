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

const SIGNAL_BITS = 0x7f
const CORE_DUMPED_BIT = 0x80

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

/** @param waitStatus as `wait(2)` gives it */
export function exitStatus(waitStatus: number): ExitStatus {
  const signal = waitStatus & SIGNAL_BITS
  if (signal === 0) {
    const exitCode = (waitStatus >> 8) & 0xff
    const status = `exit status ${exitCode}`
    return { exitCode, exited: true, status, ...(exitCode === 0 ? {} : { error: status }) }
  }
  const dumped = waitStatus & CORE_DUMPED_BIT ? ' (core dumped)' : ''
  const status = `signal: ${SIGNAL_WORDS.get(signal) ?? `signal ${signal}`}${dumped}`
  return { exitCode: -1, exited: false, status, error: status }
}
