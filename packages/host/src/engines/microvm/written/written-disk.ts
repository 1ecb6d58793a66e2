/**
 * How the disk of a stopped machine becomes a tree of files without this machine mounting what a guest wrote: a second
 * machine, of our initramfs alone and without a network, mounts the disk and writes a stream of its files onto another.
 */
import { chownSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import type { Upper } from '../../../storage/uppers.ts'
import { diskPath } from '../disk.ts'
import { driveName } from '../drives.ts'
import type { Drive, MachinePlan } from '../monitor.ts'
import { type UnpackedTree, unpackTree } from './unpack-tree.ts'

const MEMORY_MIB = 128
const MEBIBYTE = 2 ** 20
/** Names and owners beside the data: a disk of the smallest files has less of them than data. */
const STREAM_FACTOR = 2
const STREAM_EXTRA_BYTES = 64 * MEBIBYTE

const streamPath = ({ path }: Upper): string => join(path, 'written.stream')

/** What the machine that reads the disk has besides what every machine of its slot has. */
export function readingMachine(
  upper: Upper,
  uid: number,
): Pick<MachinePlan, 'vcpuCount' | 'memoryMib' | 'drives' | 'kernelArguments' | 'tap' | 'memoryDir'> {
  // Writable: a file system that was in use puts itself in order when it is mounted.
  const drives: Drive[] = [diskPath(upper.path), emptyStream(upper, uid)].map((path) => ({
    path,
    readOnly: false,
  }))
  const words = { disk: driveName(0), export: driveName(1) }
  return {
    vcpuCount: 1,
    memoryMib: MEMORY_MIB,
    drives,
    kernelArguments: Object.entries(words)
      .map(([name, value]) => `e2b.${name}=${value}`)
      .join(' '),
    tap: undefined,
    memoryDir: undefined,
  }
}

/** Sparse, and bounded: what does not fit is not written. */
function emptyStream(upper: Upper, uid: number): string {
  const path = streamPath(upper)
  rmSync(path, { force: true })
  writeFileSync(path, '', { mode: 0o600, flag: 'wx' })
  truncateSync(path, STREAM_FACTOR * statSync(diskPath(upper.path)).size + STREAM_EXTRA_BYTES)
  chownSync(path, uid, uid)
  return path
}

/**
 * After the machine has ended: puts the files into `upper.path/upper`. The disk goes first, so that both find room below
 * the upper's quota.
 * @throws Error with what the machine said, or what is wrong with its stream
 */
export async function unpackWritten(upper: Upper): Promise<UnpackedTree> {
  rmSync(diskPath(upper.path))
  try {
    await using stream = await open(streamPath(upper), 'r')
    return await unpackTree(stream, join(upper.path, 'upper'))
  } catch (error) {
    throw new Error(`what was written cannot be a layer: ${(error as Error).message}`, { cause: error })
  } finally {
    rmSync(streamPath(upper), { force: true })
  }
}
