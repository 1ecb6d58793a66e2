import type { LogExporter, LogLevel } from './log-exporter.ts'

export type LogFields = Readonly<Record<string, string | number | undefined>>

/** A transition of the agent itself, for its standard output and for the log. */
export type AgentEvent = { readonly event: string } & LogFields

const LONGEST_FIELD = 1_000
const LONGEST_MESSAGE = 2_000

/** What the agent says about its work, to whoever reads the sandbox's log. Contents and secrets are not in it. */
export class AgentLog {
  readonly #exporter: LogExporter

  constructor(exporter: LogExporter) {
    this.#exporter = exporter
  }

  /** @param logger part of the agent that speaks: `process`, `filesystem`, `service`, `envd` */
  write(level: LogLevel, logger: string, message: string, fields: LogFields = {}): void {
    const said: Record<string, string> = {}
    for (const [key, value] of Object.entries(fields)) {
      if (value !== undefined) said[key] = String(value).slice(0, LONGEST_FIELD)
    }
    this.#exporter.add({
      ...said,
      timestamp: new Date().toISOString(),
      level,
      message: message.slice(0, LONGEST_MESSAGE),
      logger,
    })
  }
}
