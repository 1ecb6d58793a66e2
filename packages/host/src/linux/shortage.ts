import { errorCode } from './libc.ts'

interface Shortage {
  codes: ReadonlySet<string>
  /** The same in the words of the C library, as programs write them into their logs. */
  words: RegExp
}

const DISK: Shortage = {
  codes: new Set(['ENOSPC', 'EDQUOT']),
  words: /no space left on device|disk quota exceeded/i,
}
const OTHERS: Shortage = {
  codes: new Set(['EMFILE', 'ENFILE', 'ENOMEM', 'EAGAIN', 'ENOBUFS']),
  words: /too many open files|cannot allocate memory|resource temporarily unavailable/i,
}

/** Whether an error, or what caused it, says that a disk is full, or a quota on it. */
export const isDiskFull = (error: unknown): boolean => says(DISK, error)

/** Whether it says that the machine has no more of something, disks among it: it says nothing about the rest. */
export const isShortage = (error: unknown): boolean => isDiskFull(error) || says(OTHERS, error)

function says({ codes, words }: Shortage, error: unknown): boolean {
  if (!(error instanceof Error)) return false
  return codes.has(errorCode(error) ?? '') || words.test(error.message) || says({ codes, words }, error.cause)
}
