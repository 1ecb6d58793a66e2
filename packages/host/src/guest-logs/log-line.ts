/** What a guest says in one request, made into lines of bounded size. */

export type LineLevel = 'debug' | 'info' | 'warn' | 'error'

export interface LogLine {
  /** When the guest says it was written, not later than now. */
  readonly atMs: number
  readonly level: LineLevel
  readonly message: string
  readonly fields: Readonly<Record<string, string>>
}

/** Lines in one request. */
export const MOST_LINES = 500
/** Characters of a message, and of all fields of a line together. */
const MOST_CHARACTERS = 4_096
const MOST_FIELDS = 32
const LONGEST_KEY = 64
const OLDEST_MS = 24 * 3600_000

const LEVELS: Readonly<Record<string, LineLevel>> = {
  trace: 'debug',
  debug: 'debug',
  info: 'info',
  warn: 'warn',
  warning: 'warn',
  error: 'error',
  fatal: 'error',
  panic: 'error',
}
/** What the platform knows better than the guest, and the parts of a line that are no fields. */
const NO_FIELDS = new Set([
  'instanceID',
  'envID',
  'teamID',
  'sandboxID',
  'templateID',
  'timestamp',
  'level',
  'message',
  '__proto__',
])

/**
 * Lines of a body: one JSON object with `message`, `level` and `timestamp`, or an array of such.
 * @throws Error when it is neither
 */
export function parseLogLines(body: string, nowMs: number): LogLine[] {
  const content: unknown = JSON.parse(body)
  const entries = Array.isArray(content) ? content : [content]
  if (entries.length > MOST_LINES) throw new Error(`at most ${MOST_LINES} lines in one request`)
  return entries.map((entry: unknown) => {
    if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) {
      throw new Error('a line is a JSON object')
    }
    return toLine(entry as Record<string, unknown>, nowMs)
  })
}

function toLine(entry: Record<string, unknown>, nowMs: number): LogLine {
  const { timestamp, level, message } = entry
  const saidMs = typeof timestamp === 'string' ? Date.parse(timestamp) : Number.NaN
  const atMs = saidMs > nowMs - OLDEST_MS && saidMs <= nowMs ? saidMs : nowMs
  const fields: Record<string, string> = {}
  let room = MOST_CHARACTERS
  for (const key of Object.keys(entry)) {
    if (Object.keys(fields).length >= MOST_FIELDS) break
    if (NO_FIELDS.has(key) || key.length > LONGEST_KEY) continue
    const text = cut(textOf(entry[key]), Math.max(0, room - key.length))
    room -= key.length + text.length
    if (room < 0) break
    fields[key] = text
  }
  return {
    atMs,
    level: (typeof level === 'string' ? LEVELS[level.toLowerCase()] : undefined) ?? 'info',
    message: cut(textOf(message), MOST_CHARACTERS),
    fields,
  }
}

const textOf = (value: unknown): string =>
  typeof value === 'string' ? value : value === undefined ? '' : JSON.stringify(value)

const cut = (text: string, length: number): string =>
  text.length <= length ? text : `${text.slice(0, Math.max(0, length - 1))}…`
