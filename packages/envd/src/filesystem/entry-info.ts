import { lstatSync, realpathSync, type Stats, statSync } from 'node:fs'
import { basename } from 'node:path'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { type EntryInfoSchema, FileType } from '@sandbox/contract/gen/filesystem/filesystem_pb'
import type { UserDatabase } from '../system/users.ts'
import { modeString } from './file-mode.ts'
import { readMetadata } from './metadata.ts'

export type EntryInfo = MessageInitShape<typeof EntryInfoSchema>

/**
 * What clients see of the file at `path` (absolute). A symbolic link has the type and mode of what it points to.
 *
 * @throws the errno error of lstat
 */
export function entryInfo(path: string, users: UserDatabase): EntryInfo {
  const info = lstatSync(path)
  const link = info.isSymbolicLink()
  const symlinkTarget = link ? resolveLink(path) : undefined
  const shown = symlinkTarget === undefined ? info : targetInfo(symlinkTarget)
  const ownMs = info.mtimeMs
  return {
    name: basename(path),
    type: shown ? fileType(shown) : FileType.UNSPECIFIED,
    path,
    size: BigInt(shownSize(info)),
    mode: shown ? shown.mode & 0o777 : 0,
    permissions: modeString(info),
    owner: users.ownerName(info.uid),
    group: users.groupName(info.gid),
    modifiedTime: timestamp(ownMs),
    ...(symlinkTarget === undefined ? {} : { symlinkTarget, isSymlink: true }),
    metadata: readMetadata(path),
  }
}

/** Btrfs counts no bytes for a directory, where other file systems count the block that holds it: clients want one. */
function shownSize(info: Stats): number {
  return info.isDirectory() && info.size === 0 ? info.blksize : info.size
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

function fileType(info: Stats): FileType {
  if (info.isFile()) return FileType.FILE
  if (info.isDirectory()) return FileType.DIRECTORY
  return FileType.UNSPECIFIED
}

function timestamp(milliseconds: number): { seconds: bigint; nanos: number } {
  const seconds = Math.floor(milliseconds / 1000)
  return { seconds: BigInt(seconds), nanos: Math.floor((milliseconds - seconds * 1000) * 1e6) }
}
