import { existsSync, readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** Beginning of the names of what is made in a directory and gets its own by one rename when it is whole. */
export const UNFINISHED = '.new-'

/** Nothing that is made takes as long, and what is being written is dated by it. */
const ABANDONED_MS = 3_600_000

/** Deletes what was not finished since whoever made it was killed, also another instance. */
export function removeAbandoned(directory: string, nowMs = Date.now()): void {
  if (!existsSync(directory)) return
  for (const name of readdirSync(directory)) {
    if (!name.startsWith(UNFINISHED)) continue
    const path = join(directory, name)
    const { mtimeMs = nowMs } = statSync(path, { throwIfNoEntry: false }) ?? {}
    if (nowMs - mtimeMs >= ABANDONED_MS) rmSync(path, { recursive: true, force: true })
  }
}
