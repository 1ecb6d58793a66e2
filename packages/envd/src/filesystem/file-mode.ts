import { constants, type Stats } from 'node:fs'

const TYPE_LETTERS = new Map([
  [constants.S_IFDIR, 'd'],
  [constants.S_IFLNK, 'L'],
  [constants.S_IFBLK, 'D'],
  [constants.S_IFIFO, 'p'],
  [constants.S_IFSOCK, 'S'],
  [constants.S_IFCHR, 'Dc'],
])
const SETUID = 0o4000
const SETGID = 0o2000
const STICKY = 0o1000

/** The mode as Go's `FileMode.String` writes it: `-rw-r--r--`, `drwxr-xr-x`, `Lrwxrwxrwx`, `dtrwxrwxrwx`. */
export function modeString(info: Pick<Stats, 'mode'>): string {
  const type = TYPE_LETTERS.get(info.mode & constants.S_IFMT) ?? ''
  const letters = goOrder(type, info.mode) || '-'
  let permissions = ''
  for (let bit = 8; bit >= 0; bit--) permissions += info.mode & (1 << bit) ? 'rwx'[(8 - bit) % 3] : '-'
  return letters + permissions
}

/** Go writes its mode letters in the fixed order d a l T L D p S u g c t. */
function goOrder(type: string, mode: number): string {
  const device = type === 'Dc'
  return [
    device ? 'D' : type,
    mode & SETUID ? 'u' : '',
    mode & SETGID ? 'g' : '',
    device ? 'c' : '',
    mode & STICKY ? 't' : '',
  ].join('')
}
