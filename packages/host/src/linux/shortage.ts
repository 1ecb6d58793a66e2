import { errorCode } from './libc.ts'

const CODES: ReadonlySet<string> = new Set([
  ...['ENOSPC', 'EDQUOT', 'EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN', 'ENOBUFS'],
])
/** The same in the words of the C library, as programs write them into their logs. */
const WORDS =
  /No space left on device|Disk quota exceeded|Too many open files|Cannot allocate memory|Resource temporarily unavailable/

/** Whether an error, or what caused it, says that the machine has no more of something: it says nothing about the rest. */
export function isShortage(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return CODES.has(errorCode(error) ?? '') || WORDS.test(error.message) || isShortage(error.cause)
}
