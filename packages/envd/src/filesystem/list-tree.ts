import { type Dirent, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { errorCode } from '../system/paths.ts'
import type { UserDatabase } from '../system/users.ts'
import { type EntryInfo, entryInfo } from './entry-info.ts'

/** Entries that are looked at before others get their turn: a large tree takes seconds. */
const ENTRIES_PER_TURN = 256

/**
 * What lies in a directory, `depth` levels deep: parents before children, each directory in lexical order, links not
 * followed. What vanishes meanwhile is left out.
 *
 * @param real the directory
 * @param shown its path as entries have it
 * @throws the errno error of a call that failed
 */
export async function listTree(
  real: string,
  shown: string,
  depth: number,
  users: UserDatabase,
): Promise<EntryInfo[]> {
  const entries: EntryInfo[] = []
  const walk = async (directory: string, shownAs: string, levels: number): Promise<void> => {
    for (const child of childrenOf(directory)) {
      const path = join(directory, child.name)
      const childShown = join(shownAs, child.name)
      const info = unlessGone(() => entryInfo(path, users))
      if (!info) continue
      if (entries.push({ ...info, path: childShown }) % ENTRIES_PER_TURN === 0) await setImmediate()
      if (levels > 1 && child.isDirectory()) await walk(path, childShown, levels - 1)
    }
  }
  await walk(real, shown, depth)
  return entries
}

const childrenOf = (directory: string): Dirent[] =>
  (unlessGone(() => readdirSync(directory, { withFileTypes: true })) ?? []).sort(byName)

function unlessGone<T>(look: () => T): T | undefined {
  try {
    return look()
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined
    throw error
  }
}

function byName(left: Dirent, right: Dirent): number {
  return Buffer.compare(Buffer.from(left.name), Buffer.from(right.name))
}
