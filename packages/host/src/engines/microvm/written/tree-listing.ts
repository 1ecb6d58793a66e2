/** For tests: all that can be told about the files of a tree, one line each, to compare trees by. */
import { createHash } from 'node:crypto'
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { checked, libcFunction } from '../../../linux/libc.ts'

const LONGEST = 65_536
const llistxattrCall = libcFunction('llistxattr', 'long', ['void *', 'void *', 'size_t'])
const lgetxattrCall = libcFunction('lgetxattr', 'long', ['void *', 'str', 'void *', 'size_t'])

export interface ListedFile {
  /** From the root of the tree, one character a byte; empty for the root. */
  path: string
  /** Type and permissions, owner, names, size, what it holds. */
  facts: string
  /** `name=value`, sorted. */
  attributes: readonly string[]
  mtimeNs: bigint
  inode: bigint
}

export function listTree(root: string): ListedFile[] {
  const files: ListedFile[] = []
  const add = (path: Buffer): void => {
    const whole = Buffer.concat([Buffer.from(`${root}/`), path])
    const stats = lstatSync(whole, { bigint: true })
    const { mode, uid, gid, rdev, nlink, mtimeNs, ino } = stats
    // Whiteouts share one file with overlay's own directory.
    const names = stats.isDirectory() || stats.isCharacterDevice() ? '' : `${nlink} names`
    files.push({
      path: path.toString('latin1'),
      facts: [
        mode.toString(8),
        uid,
        gid,
        names,
        stats.isDirectory() ? '' : stats.size,
        rdev,
        contentOf(whole, stats),
      ].join(' '),
      attributes: attributesOf(whole),
      mtimeNs,
      inode: ino,
    })
    if (!stats.isDirectory()) return
    for (const name of readdirSync(whole, { encoding: 'buffer' }).sort(Buffer.compare))
      add(path.length === 0 ? name : Buffer.concat([path, Buffer.from('/'), name]))
  }
  add(Buffer.alloc(0))
  return files
}

function contentOf(
  path: Buffer,
  stats: { isFile(): boolean; isSymbolicLink(): boolean; size: bigint },
): string {
  if (stats.isSymbolicLink()) return readlinkSync(path, { encoding: 'buffer' }).toString('latin1')
  if (!stats.isFile() || stats.size > 2 ** 28) return ''
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

function attributesOf(path: Buffer): string[] {
  const text = Buffer.concat([path, Buffer.alloc(1)])
  const bytes = Buffer.alloc(LONGEST)
  const length = checked(llistxattrCall(text, bytes, LONGEST), 'llistxattr')
  const names = bytes.toString('latin1', 0, length).split('\0').filter(Boolean)
  return names.sort().map((name) => {
    const size = checked(lgetxattrCall(text, name, bytes, LONGEST), 'lgetxattr')
    return `${name}=${bytes.toString('latin1', 0, size)}`
  })
}
