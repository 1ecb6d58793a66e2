import { checked, errorCode, libcFunction } from './libc.ts'

const LOCK_SH = 1
const LOCK_EX = 2
const LOCK_NB = 4
const LOCK_UN = 8

const flockCall = libcFunction('flock', 'int', ['int', 'int'])

/** Takes the exclusive flock(2) of an open file without waiting; false when another open file holds it. */
export const tryLock = (fd: number): boolean => tryFlock(fd, LOCK_EX)

/** Takes a shared flock(2), which keeps others from the exclusive one; false when somebody has that. */
export const trySharedLock = (fd: number): boolean => tryFlock(fd, LOCK_SH)

function tryFlock(fd: number, kind: number): boolean {
  const result = flockCall(fd, kind | LOCK_NB)
  try {
    checked(result, 'flock')
    return true
  } catch (error) {
    if (errorCode(error) === 'EAGAIN') return false
    throw error
  }
}

/** Gives the lock back; closing the descriptor does the same. */
export function unlock(fd: number): void {
  checked(flockCall(fd, LOCK_UN), 'flock')
}
