import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** Lengths of the files of a directory. */
export const bytesIn = (dir: string): number =>
  readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0)

/** What the files of a directory take on disk; their holes take nothing. */
export const occupiedBytesIn = (dir: string): number =>
  readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).blocks * 512, 0)
