import { type Logger, pino } from 'pino'
import sonicBoom from 'sonic-boom'

/** Of lines that wait for a reader who does not read: later ones are dropped. */
const MOST_WAITING_BYTES = 8 * 2 ** 20
/** What waits when the process ends has this long. */
const LAST_WORDS_MS = 1_000

/**
 * The log of a process on its standard error, which may lose its reader: the process goes on and ends all the same.
 * @param level the least that is written
 */
export function openLog(level: string): Logger {
  let giveUpAt = Number.POSITIVE_INFINITY
  const stderr = new sonicBoom.SonicBoom({
    fd: 2,
    sync: false,
    maxLength: MOST_WAITING_BYTES,
    retryEAGAIN: () => Date.now() < giveUpAt,
  })
  stderr.on('error', () => {})
  let dropped = 0
  stderr.on('drop', () => {
    dropped += 1
  })
  process.once('exit', () => {
    giveUpAt = Date.now() + LAST_WORDS_MS
    try {
      stderr.flushSync()
    } catch {
      // Nobody reads it.
    }
  })
  const log = pino({ level, base: null }, stderr)
  stderr.on('drain', () => {
    if (dropped > 0) log.warn({ lines: dropped }, 'log lines dropped')
    dropped = 0
  })
  return log
}
