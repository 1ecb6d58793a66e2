import { checked, errorCode, libcFunction } from './libc.ts'

const LOCK_EX = 2
const LOCK_NB = 4
const LOCK_UN = 8

const flockCall = libcFunction('flock', 'int', ['int', 'int'])

/** Takes the exclusive flock(2) of an open file without waiting; false when another open file holds it. */
export function tryLock(fd: number): boolean {
  const result = flockCall(fd, LOCK_EX | LOCK_NB)
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
