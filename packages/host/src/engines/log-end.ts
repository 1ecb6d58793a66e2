import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

const MOST_BYTES = 65_536

/** The end of a log, which a guest may have filled with whatever it likes. Empty where there is none. */
export function endOfLog(path: string, mostBytes = MOST_BYTES): string {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch {
    return ''
  }
  try {
    const { size } = fstatSync(fd)
    const bytes = Buffer.alloc(Math.min(mostBytes, size))
    const length = readSync(fd, bytes, 0, bytes.length, size - bytes.length)
    return bytes.toString('utf8', 0, length).trim()
  } finally {
    closeSync(fd)
  }
}
