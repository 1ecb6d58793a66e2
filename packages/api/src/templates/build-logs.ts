import type { BuildLogEntry } from '@sandbox/contract/rest/templates'
import type { TemplateBuild } from '@sandbox/store/schema'

export interface BuildLogFilter {
  readonly limit: number
  readonly direction: 'forward' | 'backward'
  /** Lines from this time on, or back from it; milliseconds since 1970. */
  readonly cursor?: number | undefined
  /** The least level that is shown. */
  readonly level?: string | undefined
}

const LEVELS = ['debug', 'info', 'warn', 'error']

/** What is kept of a build's lines: those with the reason of its failure. Of one that went well there is nothing. */
export function buildLogs({ reason }: TemplateBuild, filter: BuildLogFilter): BuildLogEntry[] {
  const kept = reason === null ? {} : (JSON.parse(reason) as { logEntries?: BuildLogEntry[] })
  const { limit, direction, cursor, level = 'debug' } = filter
  const isForward = direction === 'forward'
  const lines = (kept.logEntries ?? [])
    .filter((line) => LEVELS.indexOf(line.level) >= LEVELS.indexOf(level))
    .filter(({ timestamp }) => {
      const at = Date.parse(timestamp)
      return cursor === undefined || (isForward ? at >= cursor : at <= cursor)
    })
    .toSorted((a, b) => Date.parse(a.timestamp) - Date.parse(b.timestamp))
  return (isForward ? lines : lines.toReversed()).slice(0, limit)
}
