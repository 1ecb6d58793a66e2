import { type Static, Type } from 'typebox'

/** Logs of sandboxes. Cursors are milliseconds since 1970. */

const Cursor = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })

export const LogLevel = Type.Union([
  Type.Literal('debug'),
  Type.Literal('info'),
  Type.Literal('warn'),
  Type.Literal('error'),
])
export type LogLevel = Static<typeof LogLevel>

export const SandboxLogEntry = Type.Object({
  timestamp: Type.String({ format: 'date-time' }),
  message: Type.String(),
  level: LogLevel,
  fields: Type.Record(Type.String(), Type.String()),
})
export type SandboxLogEntry = Static<typeof SandboxLogEntry>

/** `line` is JSON with `level`, `logger` and `message`. */
const SandboxLog = Type.Object({ timestamp: Type.String({ format: 'date-time' }), line: Type.String() })

/** What GET /sandboxes/{id}/logs answers. */
export const SandboxLogs = Type.Object({
  logs: Type.Array(SandboxLog),
  logEntries: Type.Array(SandboxLogEntry),
})
export type SandboxLogs = Static<typeof SandboxLogs>

/** Query of GET /sandboxes/{id}/logs. */
export const SandboxLogsQuery = Type.Object({
  start: Type.Optional(Cursor),
  limit: Type.Optional(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1, default: 1000 })),
})

/** What GET /v2/sandboxes/{id}/logs answers. */
export const SandboxLogsV2 = Type.Object({ logs: Type.Array(SandboxLogEntry) })

/** Query of GET /v2/sandboxes/{id}/logs. */
export const SandboxLogsV2Query = Type.Object({
  cursor: Type.Optional(Cursor),
  limit: Type.Optional(Type.Integer({ minimum: 0, maximum: 1000, default: 1000 })),
  direction: Type.Optional(
    Type.Union([Type.Literal('forward'), Type.Literal('backward')], { default: 'backward' }),
  ),
  level: Type.Optional(LogLevel),
  search: Type.Optional(Type.String({ maxLength: 256 })),
})
export type SandboxLogsV2Query = Static<typeof SandboxLogsV2Query>
