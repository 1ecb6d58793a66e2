import type { LogLevel, SandboxLogEntry, SandboxLogsV2Query } from '@sandbox/contract/rest/logs'

const MAX_ENTRIES = 1_000
const MAX_SANDBOXES = 10_000
const LEVELS: readonly LogLevel[] = ['debug', 'info', 'warn', 'error']

interface Entry {
  readonly atMs: number
  readonly message: string
  readonly level: LogLevel
  readonly fields: Record<string, string>
}

interface OfSandbox {
  readonly teamId: string
  readonly entries: Entry[]
}

/**
 * The newest log lines of each sandbox, in memory: its life, and what its agent reports. Lines of ended sandboxes
 * stay until their place is needed.
 */
export class SandboxLogs {
  readonly #bySandbox = new Map<string, OfSandbox>()

  /** Adds a line; the oldest line of the sandbox goes when it has too many. */
  append(
    sandboxId: string,
    teamId: string,
    level: LogLevel,
    message: string,
    fields: Record<string, string> = {},
  ): void {
    const known = this.#bySandbox.get(sandboxId)
    const logs = known ?? { teamId, entries: [] }
    if (known) this.#bySandbox.delete(sandboxId)
    else if (this.#bySandbox.size >= MAX_SANDBOXES) {
      this.#bySandbox.delete(this.#bySandbox.keys().next().value ?? '')
    }
    this.#bySandbox.set(sandboxId, logs)
    logs.entries.push({ atMs: Date.now(), message, level, fields })
    if (logs.entries.length > MAX_ENTRIES) logs.entries.shift()
  }

  /** Whether there are lines of a sandbox of this team, running or ended. */
  has(teamId: string, sandboxId: string): boolean {
    return this.#bySandbox.get(sandboxId)?.teamId === teamId
  }

  /** Lines that match, in the direction asked for: forward from the cursor on, backward before it. */
  read(sandboxId: string, query: SandboxLogsV2Query): SandboxLogEntry[] {
    const { cursor, direction = 'forward', level = 'debug', limit = MAX_ENTRIES, search = '' } = query
    const entries = this.#bySandbox.get(sandboxId)?.entries ?? []
    const least = LEVELS.indexOf(level)
    const isForward = direction === 'forward'
    const matches = ({ atMs, level: own, message }: Entry): boolean =>
      LEVELS.indexOf(own) >= least &&
      message.includes(search) &&
      (cursor === undefined || (isForward ? atMs >= cursor : atMs <= cursor))
    const found = entries.filter(matches)
    return (isForward ? found : found.reverse()).slice(0, limit).map(toLogEntry)
  }
}

const toLogEntry = ({ atMs, message, level, fields }: Entry): SandboxLogEntry => ({
  timestamp: new Date(atMs).toISOString(),
  message,
  level,
  fields: { ...fields, logger: 'sandbox' },
})
