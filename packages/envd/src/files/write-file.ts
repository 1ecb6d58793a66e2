import { chownSync, constants, type Stats, statSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { isMetadataUnsupported, replaceMetadata } from '../filesystem/metadata.ts'
import { HttpError } from '../http/exchange.ts'
import { errorText } from '../system/error-text.ts'
import { ensureDirectory, errorCode, isDiskFull } from '../system/paths.ts'
import type { User } from '../system/users.ts'

/** One file to write. */
export interface FileWrite {
  /** Absolute path. */
  readonly path: string
  readonly user: User
  readonly body: AsyncIterable<Buffer>
  readonly metadata: Readonly<Record<string, string>>
  /** Content-Length of the request when known, for the message of a full disk. */
  readonly announcedBytes: number | undefined
}

/**
 * Writes a file as it arrives: makes its parents, replaces its content and metadata, gives it to the user. A file
 * that exists keeps its mode.
 *
 * @throws HttpError 400 for a directory, 507 for a full disk, 500 for the rest
 */
export async function writeFile(write: FileWrite): Promise<void> {
  const { path, user } = write
  failAs(500, 'error ensuring directories', () => ensureDirectory(dirname(path), user))
  const existing = failAs(500, 'error getting file info', (): Stats | undefined =>
    statSync(path, { throwIfNoEntry: false }),
  )
  if (existing?.isDirectory()) throw new HttpError(400, `path is a directory: ${path}`)
  if (existing) failAs(500, 'error changing file ownership', () => chownSync(path, user.uid, user.gid))
  const file = await openForWriting(path)
  try {
    if (!existing) await file.chown(user.uid, user.gid)
    await writeBody(file, write)
    writeMetadata(file, write.metadata)
  } finally {
    await file.close()
  }
}

const { O_WRONLY, O_CREAT, O_TRUNC, O_NONBLOCK } = constants
/** Without waiting: a pipe that nobody reads would hold a worker thread for ever. */
const WRITE_FLAGS = O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK

async function openForWriting(path: string): Promise<FileHandle> {
  try {
    return await open(path, WRITE_FLAGS, 0o666)
  } catch (error) {
    const reason = errorText(error)
    if (isDiskFull(error)) throw new HttpError(507, `not enough inodes available: ${reason}`)
    throw new HttpError(500, `error opening file: ${reason}`)
  }
}

async function writeBody(file: FileHandle, { body, announcedBytes }: FileWrite): Promise<void> {
  try {
    for await (const chunk of body) {
      for (let done = 0; done < chunk.length; ) done += (await file.write(chunk, done)).bytesWritten
    }
  } catch (error) {
    if (isDiskFull(error)) {
      const prefix = announcedBytes ? `attempted to write ${announcedBytes} bytes: ` : ''
      throw new HttpError(507, `${prefix}not enough disk space available`)
    }
    throw new HttpError(500, `error writing file: ${errorText(error)}`)
  }
}

function writeMetadata(file: FileHandle, metadata: Readonly<Record<string, string>>): void {
  try {
    replaceMetadata(file.fd, metadata)
  } catch (error) {
    if (isMetadataUnsupported(error)) return
    const reason = errorCode(error) ?? String(error)
    if (isDiskFull(error)) throw new HttpError(507, `not enough space for file metadata: ${reason}`)
    throw new HttpError(500, `error writing file metadata: ${reason}`)
  }
}

function failAs<T>(status: number, context: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    throw new HttpError(status, `${context}: ${errorText(error)}`)
  }
}
