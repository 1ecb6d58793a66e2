import { checked, errorCode, systemCall } from './libc.ts'

const pidfdOpenCall = systemCall(434, ['int', 'uint'])
const pidfdSendSignalCall = systemCall(424, ['int', 'int', 'void *', 'uint'])

/** A descriptor of process `pid` that never means another process; the caller closes it. ESRCH: no such process. */
export function pidfdOpen(pid: number): number {
  return checked(pidfdOpenCall(pid, 0), 'pidfd_open', String(pid))
}

/** Sends a signal by number. Answers false when the process has ended. Throws SystemError otherwise. */
export function pidfdSendSignal(pidfd: number, signal: number): boolean {
  const result = pidfdSendSignalCall(pidfd, signal, null, 0)
  try {
    checked(result, 'pidfd_send_signal')
    return true
  } catch (error) {
    if (errorCode(error) === 'ESRCH') return false
    throw error
  }
}
