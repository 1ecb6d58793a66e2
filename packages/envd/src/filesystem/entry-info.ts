import { type BigIntStats, lstatSync, realpathSync, type Stats, statSync } from 'node:fs'
import { basename } from 'node:path'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { type EntryInfoSchema, FileType } from '@sandbox/contract/gen/filesystem/filesystem_pb'
import type { UserDatabase } from '../system/users.ts'
import { modeString } from './file-mode.ts'
import { readMetadata } from './metadata.ts'

const NANOS = 1_000_000_000n

export type EntryInfo = MessageInitShape<typeof EntryInfoSchema>

/**
 * What clients see of the file at `path` (absolute). A symbolic link has the type and mode of what it points to.
 *
 * @throws the errno error of lstat
 */
export function entryInfo(path: string, users: UserDatabase): EntryInfo {
  // Milliseconds as a number would be off by up to a microsecond.
  const info = lstatSync(path, { bigint: true })
  const link = info.isSymbolicLink()
  const symlinkTarget = link ? resolveLink(path) : undefined
  const shown = symlinkTarget === undefined ? info : targetInfo(symlinkTarget)
  return {
    name: basename(path) || '/',
    type: shown ? fileType(shown) : FileType.UNSPECIFIED,
    path,
    size: shownSize(info),
    mode: shown ? Number(shown.mode) & 0o777 : 0,
    permissions: modeString({ mode: Number(info.mode) }),
    owner: users.ownerName(Number(info.uid)),
    group: users.groupName(Number(info.gid)),
    // A file without a date, as archives make them, has none here either.
    ...(info.mtimeNs === 0n ? {} : { modifiedTime: timestamp(info.mtimeNs) }),
    ...(symlinkTarget === undefined ? {} : { symlinkTarget, isSymlink: true }),
    metadata: readMetadata(path),
  }
}

/** Btrfs counts no bytes for a directory, where other file systems count the block that holds it: clients want one. */
function shownSize(info: BigIntStats): bigint {
  return info.isDirectory() && info.size === 0n ? info.blksize : info.size
}

function resolveLink(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

/** Undefined for a link that leads nowhere or to itself. */
function targetInfo(path: string): Stats | undefined {
  try {
    return statSync(path)
  } catch {
    return undefined
  }
}

function fileType(info: Stats | BigIntStats): FileType {
  if (info.isFile()) return FileType.FILE
  if (info.isDirectory()) return FileType.DIRECTORY
  return FileType.UNSPECIFIED
}

/** Before 1970 too the nanoseconds count forward. */
function timestamp(nanoseconds: bigint): { seconds: bigint; nanos: number } {
  const nanos = ((nanoseconds % NANOS) + NANOS) % NANOS
  return { seconds: (nanoseconds - nanos) / NANOS, nanos: Number(nanos) }
}
