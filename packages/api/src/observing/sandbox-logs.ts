import type { LogLevel, SandboxLogEntry, SandboxLogsV2Query } from '@sandbox/contract/rest/logs'
import type { SandboxLogRow } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'

const LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error']
const MOST_READ = 1_000
/** Lines wait this long, so that many are written at once. What waits is lost when the process is killed. */
const WRITE_AFTER_MS = 500
const MOST_PENDING = 20_000
/** Newest lines of one sandbox that are kept. */
const KEPT_OF_SANDBOX = 10_000
/** After this many new lines a sandbox's old ones are looked for. */
const TRIM_EVERY = 1_000
const MOST_COUNTED = 10_000

/** A line before it is written. */
export interface NewLogLine {
  readonly sandboxId: string
  readonly teamId: string
  readonly level: LogLevel
  readonly message: string
  readonly fields?: Readonly<Record<string, string>>
  /** When it was written in the sandbox, milliseconds since 1970; default now. */
  readonly atMs?: number
}

/** The log lines of each sandbox, kept in the store: its life, and what its agent reports. */
export class SandboxLogs {
  readonly #store: Store
  readonly #logger: Logger
  readonly #untrimmed = new Map<string, number>()
  #pending: SandboxLogRow[] = []
  #lastSeq = 0
  #timer: NodeJS.Timeout | undefined
  #writing: Promise<void> | undefined

  constructor(store: Store, logger: Logger) {
    this.#store = store
    this.#logger = logger
  }

  /** Adds a line about the life of a sandbox. */
  append(
    sandboxId: string,
    teamId: string,
    level: LogLevel,
    message: string,
    fields: Record<string, string> = {},
  ): void {
    this.add({ sandboxId, teamId, level, message, fields })
  }

  /** Adds a line, to be written with others soon. While the store does not take them the newest wait. */
  add({ sandboxId, teamId, level, message, fields = {}, atMs = Date.now() }: NewLogLine): void {
    this.#lastSeq = Math.max(this.#lastSeq + 1, Date.now() * 1000)
    this.#pending.push({
      sandboxId,
      teamId,
      at: atMs,
      seq: this.#lastSeq,
      level: LEVELS.indexOf(level),
      message: withoutNul(message),
      fields: JSON.stringify(fields),
    })
    if (this.#pending.length > MOST_PENDING) this.#pending.splice(0, this.#pending.length - MOST_PENDING)
    this.#timer ??= setTimeout(() => this.#writeLater(), WRITE_AFTER_MS).unref()
  }

  /** Whether there are lines of a sandbox of this team, running or ended. */
  async has(teamId: string, sandboxId: string): Promise<boolean> {
    await this.flush()
    return this.#store.sandboxLogs.has(teamId, sandboxId)
  }

  /** Lines that match, in the direction asked for: forward from the cursor on, backward before it. */
  async read(sandboxId: string, query: SandboxLogsV2Query): Promise<SandboxLogEntry[]> {
    await this.flush()
    const { cursor, direction = 'forward', level = 'debug', limit = MOST_READ, search = '' } = query
    const lines = await this.#store.sandboxLogs.read(sandboxId, {
      cursor,
      direction,
      leastLevel: LEVELS.indexOf(level),
      search: withoutNul(search),
      limit,
    })
    return lines.map(toLogEntry)
  }

  /** Writes what was added before the call. @throws when the store does not take it; it is tried again then */
  async flush(): Promise<void> {
    const added = this.#lastSeq
    while ((this.#pending[0]?.seq ?? Number.POSITIVE_INFINITY) <= added || this.#writing) {
      this.#writing ??= this.#write().finally(() => {
        this.#writing = undefined
      })
      await this.#writing
    }
  }

  /** Writes what is left. Never rejects. */
  async close(): Promise<void> {
    await this.flush().catch((error: unknown) => this.#logger.error({ err: error }, 'log lines are lost'))
    clearTimeout(this.#timer)
  }

  #writeLater(): void {
    this.#timer = undefined
    this.flush().catch((error: unknown) => {
      this.#logger.warn({ err: error, lines: this.#pending.length }, 'log lines not written, trying again')
      this.#timer ??= setTimeout(() => this.#writeLater(), WRITE_AFTER_MS * 10).unref()
    })
  }

  async #write(): Promise<void> {
    const lines = this.#pending
    this.#pending = []
    try {
      await this.#store.sandboxLogs.insert(lines)
    } catch (error) {
      this.#pending = [...lines, ...this.#pending].slice(-MOST_PENDING)
      throw error
    }
    for (const id of this.#dueForTrim(lines)) await this.#store.sandboxLogs.trim(id, KEPT_OF_SANDBOX)
  }

  #dueForTrim(lines: readonly SandboxLogRow[]): string[] {
    const due: string[] = []
    for (const { sandboxId } of lines) {
      const count = (this.#untrimmed.get(sandboxId) ?? 0) + 1
      this.#untrimmed.delete(sandboxId)
      if (count >= TRIM_EVERY) due.push(sandboxId)
      else this.#untrimmed.set(sandboxId, count)
    }
    // Those written to least recently come first.
    for (const id of this.#untrimmed.keys()) {
      if (this.#untrimmed.size <= MOST_COUNTED) break
      this.#untrimmed.delete(id)
    }
    return due
  }
}

/** PostgreSQL keeps no NUL in a text. */
const withoutNul = (text: string): string => text.replaceAll('\0', '\ufffd')

const toLogEntry = ({ at, message, level, fields }: SandboxLogRow): SandboxLogEntry => ({
  timestamp: new Date(at).toISOString(),
  message,
  level: LEVELS[level] ?? 'info',
  fields: { logger: 'sandbox', ...(JSON.parse(fields) as Record<string, string>) },
})
