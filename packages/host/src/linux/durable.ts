/**
 * What must be there after a loss of power. A rename makes a file appear whole to whoever runs now, but the disk may
 * learn of the name before the content, or of neither: content is synced first, then the name's directory.
 */
import { closeSync, constants, openSync } from 'node:fs'
import { open, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { randomName } from '@sandbox/contract/ids'
import { libcFunctionInBackground } from './libc.ts'

/** A disk of a gigabyte a second has some 50 MiB to write in that time. */
const WRITE_EARLY_EVERY_MS = 50
const SYNC_FILE_RANGE_WRITE = 2

const syncfsCall = libcFunctionInBackground('syncfs', 'int', ['int'])
const syncFileRangeCall = libcFunctionInBackground('sync_file_range', 'int', [
  'int',
  'int64',
  'int64',
  'uint',
])

/** Waits until the content of a file, or the names in a directory, are on the disk. */
export async function syncPath(path: string): Promise<void> {
  const file = await open(path, constants.O_RDONLY)
  try {
    await file.sync()
  } finally {
    await file.close()
  }
}

/** The same for every file in a directory and its folders, then their names. */
export async function syncTree(directory: string): Promise<void> {
  const entries = await readdir(directory, { withFileTypes: true })
  await Promise.all(
    entries.map((entry) => {
      const path = join(directory, entry.name)
      if (entry.isDirectory()) return syncTree(path)
      return entry.isFile() ? syncPath(path) : undefined
    }),
  )
  await syncPath(directory)
}

/** Waits until everything written so far to the file system that holds `path` is on its disk. */
export async function syncFileSystem(path: string): Promise<void> {
  const fd = openSync(path, constants.O_RDONLY)
  try {
    if ((await syncfsCall(fd)) < 0)
      throw new Error(`the file system of ${path} could not be written to its disk`)
  } finally {
    closeSync(fd)
  }
}

/** Renames, and waits until the new name is on the disk. The content was synced by the caller. */
export async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to)
  await syncPath(dirname(to))
}

/** Makes or replaces a file as one step: whoever reads it, also after a loss of power, has the old or the new. */
export async function writeDurably(path: string, content: string, mode = 0o644): Promise<void> {
  const unfinished = join(dirname(path), `.${basename(path)}.${process.pid}-${randomName(8)}`)
  try {
    await writeFile(unfinished, content, { mode, flush: true })
    await renameDurably(unfinished, path)
  } catch (error) {
    await rm(unfinished, { force: true })
    throw error
  }
}

/**
 * Starts the writing of what comes into the files of a directory while somebody else fills it, so that a sync at the
 * end finds little left. @returns what ends it
 */
export function writeEarly(directory: string): () => Promise<void> {
  const abort = new AbortController()
  const writing = (async () => {
    while (!abort.signal.aborted) {
      for (const name of await readdir(directory)) await startWriting(join(directory, name))
      await setTimeout(WRITE_EARLY_EVERY_MS, undefined, { signal: abort.signal }).catch(() => {})
    }
  })().catch(() => {})
  return () => {
    abort.abort()
    return writing
  }
}

async function startWriting(path: string): Promise<void> {
  const fd = openSync(path, constants.O_RDONLY)
  try {
    await syncFileRangeCall(fd, 0, 0, SYNC_FILE_RANGE_WRITE)
  } finally {
    closeSync(fd)
  }
}
