import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { errorCode } from './paths.ts'

/** One line of /etc/passwd with the groups the user is in. */
export interface User {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
  /** Primary and supplementary group ids. */
  readonly groups: readonly number[]
}

interface Tables {
  readonly stamp: string
  readonly byName: Map<string, Omit<User, 'groups'>>
  readonly userNames: Map<number, string>
  readonly groupNames: Map<number, string>
  readonly memberships: Map<string, number[]>
}

/** The users and groups of the image, read from its files so that no libc of the image is needed. */
export class UserDatabase {
  readonly #passwdFile: string
  readonly #groupFile: string
  #tables: Tables | undefined

  constructor(rootDir: string) {
    this.#passwdFile = join(rootDir, 'etc/passwd')
    this.#groupFile = join(rootDir, 'etc/group')
  }

  /** The user of that name, or undefined. */
  find(name: string): User | undefined {
    const tables = this.#read()
    const user = tables.byName.get(name)
    if (!user) return undefined
    const groups = [...new Set([user.gid, ...(tables.memberships.get(name) ?? [])])]
    return { ...user, groups }
  }

  /** Name of a uid, or the number as text. */
  ownerName(uid: number): string {
    return this.#read().userNames.get(uid) ?? String(uid)
  }

  /** Name of a gid, or the number as text. */
  groupName(gid: number): string {
    return this.#read().groupNames.get(gid) ?? String(gid)
  }

  #read(): Tables {
    const stamp = `${stampOf(this.#passwdFile)} ${stampOf(this.#groupFile)}`
    if (this.#tables?.stamp !== stamp) this.#tables = this.#parse(stamp)
    return this.#tables
  }

  #parse(stamp: string): Tables {
    const tables: Tables = {
      stamp,
      byName: new Map(),
      userNames: new Map(),
      groupNames: new Map(),
      memberships: new Map(),
    }
    for (const [name, , uid, gid, , home] of rows(this.#passwdFile)) {
      if (!name || !isId(uid) || !isId(gid)) continue
      if (tables.byName.has(name)) continue
      tables.byName.set(name, { name, uid: Number(uid), gid: Number(gid), home: home || '/' })
      if (!tables.userNames.has(Number(uid))) tables.userNames.set(Number(uid), name)
    }
    for (const [name, , gid, members] of rows(this.#groupFile)) {
      if (!name || !isId(gid)) continue
      if (!tables.groupNames.has(Number(gid))) tables.groupNames.set(Number(gid), name)
      for (const member of (members ?? '').split(',').filter(Boolean)) {
        tables.memberships.set(member, [...(tables.memberships.get(member) ?? []), Number(gid)])
      }
    }
    return tables
  }
}

const isId = (text: string | undefined): boolean => text !== undefined && /^\d{1,10}$/.test(text)

function stampOf(file: string): string {
  const info = statSync(file, { throwIfNoEntry: false, bigint: true })
  return info ? `${info.ino}:${info.size}:${info.mtimeNs}` : 'missing'
}

/** A file that is missing has none. @throws any other error: users that are there must not be taken for unknown */
function rows(file: string): string[][] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return []
    throw error
  }
  return text.split('\n').map((line) => line.split(':'))
}
