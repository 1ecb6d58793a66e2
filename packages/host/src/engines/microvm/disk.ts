/**
 * The writable disk of a sandbox: `disk.img` in its upper, a sparse ext4 whose size is the cap. A new one is a copy of
 * an empty one, that of a clone a copy of the captured one; both lie once on the file system of the uppers, where a
 * copy shares all blocks and takes no time.
 */
import { createHash, randomUUID } from 'node:crypto'
import {
  chmodSync,
  chownSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../linux/process.ts'
import { limitSubvolume } from '../../storage/btrfs.ts'
import type { Upper } from '../../storage/uppers.ts'
import { UNFINISHED } from '../unfinished.ts'

const MEBIBYTE = 2 ** 20
const COPY_WITHIN_MS = 300_000
/** Fixed, so that equal sizes give equal bytes. */
const DISK_UUID = '00000000-0000-4000-8000-000000000000'
/** A journal costs its size when it is used; what outlives the machine was synced before. */
const JOURNAL_MIB = 8
const SEED_SUFFIX = '.img'
const ORIGIN_SUFFIX = '.origin'

export const diskPath = (directory: string): string => join(directory, 'disk.img')

export interface DiskRequest {
  upper: Upper
  diskMib: number
  /** Begins as the disk that was captured there; undefined begins empty. */
  memoryDir: string | undefined
  /** Who writes to it. */
  uid: number
  /** On the file system of the uppers; see above. */
  seedsDir: string
}

/** Makes the disk unless the upper, being a copy of another, brings one. @throws Error, CommandError */
export async function prepareDisk(request: DiskRequest): Promise<string> {
  const { upper, memoryDir, seedsDir, uid } = request
  const path = diskPath(upper.path)
  if (!existsSync(path)) {
    const seed = memoryDir === undefined ? emptySeed(request) : capturedSeed(diskPath(memoryDir), seedsDir)
    await copyFile(await seed, path, constants.COPYFILE_FICLONE)
  }
  chownSync(path, uid, uid)
  chmodSync(path, 0o600)
  // The size of the file is the cap. A quota as small would count blocks twice that a copy has overwritten.
  limitSubvolume(upper.path, 2 * statSync(path).size + 64 * MEBIBYTE)
  return path
}

/** Keeps the disk of a guest that stands still beside its memory. */
export async function keepDisk(upper: Upper, memoryDir: string): Promise<void> {
  await copySparse(diskPath(upper.path), diskPath(memoryDir))
  chmodSync(diskPath(memoryDir), 0o400)
}

/** Deletes what captured disks are gone of, and what broken-off copies left. Not while a disk is being prepared. */
export function removeStaleSeeds(seedsDir: string): void {
  if (!existsSync(seedsDir)) return
  for (const name of readdirSync(seedsDir)) {
    const path = join(seedsDir, name)
    if (name.startsWith(UNFINISHED)) rmSync(path, { force: true })
  }
  removeOrphans(seedsDir)
}

function removeOrphans(seedsDir: string): void {
  for (const name of readdirSync(seedsDir)) {
    const path = join(seedsDir, name)
    if (!name.endsWith(ORIGIN_SUFFIX) || existsSync(readFileSync(path, 'utf8'))) continue
    rmSync(path.replace(ORIGIN_SUFFIX, SEED_SUFFIX), { force: true })
    rmSync(path)
  }
}

/** Without tables that the guest would fill in later, so that it takes next to nothing. */
async function emptySeed({ diskMib, seedsDir }: DiskRequest): Promise<string> {
  const path = join(seedsDir, `empty-${diskMib}${SEED_SUFFIX}`)
  return seed(path, async (unfinished) => {
    writeFileSync(unfinished, '')
    truncateSync(unfinished, diskMib * MEBIBYTE)
    const extended = ['lazy_itable_init=0', 'lazy_journal_init=1', `hash_seed=${DISK_UUID}`].join(',')
    const layout = ['-m', '0', '-J', `size=${JOURNAL_MIB}`, '-O', '^resize_inode', '-E', extended]
    await run('mkfs.ext4', ['-q', '-F', '-U', DISK_UUID, ...layout, unfinished])
  })
}

async function capturedSeed(captured: string, seedsDir: string): Promise<string> {
  const { dev, ino, mtimeMs } = statSync(captured)
  const name = createHash('sha256').update(`${captured} ${dev} ${ino} ${mtimeMs}`).digest('hex').slice(0, 32)
  mkdirSync(seedsDir, { recursive: true, mode: 0o700 })
  return seed(join(seedsDir, `${name}${SEED_SUFFIX}`), (unfinished) => {
    // A host that runs for months keeps no copies of what it has thrown away.
    removeOrphans(seedsDir)
    writeFileSync(join(seedsDir, `${name}${ORIGIN_SUFFIX}`), captured)
    return copySparse(captured, unfinished)
  })
}

/** Whoever comes first makes it; several at once each make one, and the last stays. */
async function seed(path: string, make: (unfinished: string) => Promise<void>): Promise<string> {
  if (existsSync(path)) return path
  mkdirSync(join(path, '..'), { recursive: true, mode: 0o700 })
  const unfinished = join(path, '..', `${UNFINISHED}${randomUUID()}`)
  await make(unfinished)
  renameSync(unfinished, path)
  return path
}

async function copySparse(from: string, to: string): Promise<void> {
  await run('cp', ['--sparse=always', '--reflink=auto', '--no-preserve=all', from, to], {
    timeoutMs: COPY_WITHIN_MS,
  })
}
