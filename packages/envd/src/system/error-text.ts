import { getSystemErrorMessage } from 'node:util'
import { errorCode } from './paths.ts'

/** Words of the C library where libuv has others: clients and the programs in a sandbox know these. */
const WORDS: Readonly<Record<string, string>> = {
  EBUSY: 'device or resource busy',
  EDQUOT: 'disk quota exceeded',
  EEXIST: 'file exists',
  EIO: 'input/output error',
  EISDIR: 'is a directory',
  ELOOP: 'too many levels of symbolic links',
  ENAMETOOLONG: 'file name too long',
  ENOMEM: 'cannot allocate memory',
  ENOTSUP: 'operation not supported',
  ETXTBSY: 'text file busy',
  EXDEV: 'invalid cross-device link',
}

/** A failed call of Node as clients are told it, `lstat /x: no such file or directory`; other errors by their message. */
export function errorText(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const { errno, syscall, path, dest }: NodeJS.ErrnoException & { dest?: string } = error
  const code = errorCode(error)
  // Node itself refuses a path with a NUL byte, in words about its own arguments.
  if (code === 'ERR_INVALID_ARG_VALUE') return 'invalid argument'
  if (!/^E[A-Z0-9]+$/.test(code ?? '') || errno === undefined || errno >= 0) return error.message
  const call = [syscall, path, dest].filter(Boolean).join(' ')
  const words = WORDS[code!] ?? getSystemErrorMessage(errno)
  return call ? `${call}: ${words}` : words
}
