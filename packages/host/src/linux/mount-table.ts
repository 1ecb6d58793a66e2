import { readFileSync } from 'node:fs'
import { unmountIfMounted } from './mount.ts'

/** One line of /proc/self/mountinfo. */
export interface MountEntry {
  mountId: number
  parentId: number
  /** `major:minor` */
  device: string
  /** Path inside the file system that is visible at `target`. */
  root: string
  target: string
  /** Per-mount options, e.g. `ro,nosuid,idmapped`. */
  options: readonly string[]
  fileSystem: string
  source: string
  /** Options of the file system itself, e.g. overlay's `lowerdir=...`. */
  superOptions: readonly string[]
}

const maxUnmountRounds = 8

/** All mounts of this process's mount namespace, in mount order. */
export function mountTable(): MountEntry[] {
  return parseMountTable(readFileSync('/proc/self/mountinfo', 'utf8'))
}

export function parseMountTable(text: string): MountEntry[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(parseLine)
}

/** The mounts at `prefix` and below it, outermost first. */
export function mountsUnder(prefix: string): MountEntry[] {
  const root = withoutTrailingSlash(prefix)
  return mountTable().filter((entry) => entry.target === root || entry.target.startsWith(`${root}/`))
}

/** Unmounts everything at and below `prefix`, innermost and topmost first; idempotent. Answers how many. */
export function unmountTree(prefix: string): number {
  let unmounted = 0
  for (let round = 0; round < maxUnmountRounds; round++) {
    const targets = mountsUnder(prefix).map((entry) => entry.target)
    if (targets.length === 0) return unmounted
    // Detaching takes a whole subtree along, so later entries of a round may already be gone.
    for (const target of targets.reverse()) if (unmountIfMounted(target)) unmounted++
  }
  throw new Error(`mounts under ${prefix} keep reappearing`)
}

function parseLine(line: string): MountEntry {
  const [before = '', after = ''] = line.split(' - ')
  const [mountId, parentId, device = '', root = '', target = '', options = ''] = before.split(' ')
  const [fileSystem = '', source = '', superOptions = ''] = after.split(' ')
  return {
    mountId: Number(mountId),
    parentId: Number(parentId),
    device,
    root: unescaped(root),
    target: unescaped(target),
    options: options.split(','),
    fileSystem,
    source: unescaped(source),
    superOptions: superOptions.split(','),
  }
}

/** The kernel writes space, tab, newline and backslash as three octal digits. */
function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  )
}

function withoutTrailingSlash(path: string): string {
  return path.length > 1 && path.endsWith('/') ? path.slice(0, -1) : path
}
