import { readFileSync } from 'node:fs'

/** First process of every sandbox, in the agent's layer. */
export const INIT = ['/.e2b/bin/init'] as const
/** A sandbox may open this many files unless the machine allows fewer. */
const OPEN_FILES_MAX = 1_048_576

/** The hard limit of this process; raising it takes a capability that containers of the host may lack. */
export function openFilesMax(): number {
  const line = /^Max open files\s+\S+\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))
  return Math.min(OPEN_FILES_MAX, Number(line?.[1] ?? 1024))
}
