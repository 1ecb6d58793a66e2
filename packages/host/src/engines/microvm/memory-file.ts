/**
 * The memory of a guest whose monitor maps it privately from a file: what the guest has written lies in pages of the
 * monitor's own, which are found by the kernel's page map and copied over a sparse copy of that file.
 */

import { readFileSync, statSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { run } from '../../linux/process.ts'
import { readWhole, writeWhole } from '../../linux/whole-io.ts'

const PAGE_BYTES = 4096
const ENTRY_BYTES = 8
/** Bits of a page map entry, in its highest 32. */
const PRESENT = 0x8000_0000
const SWAPPED = 0x4000_0000
const OF_FILE = 0x2000_0000
/** One read and one write: large enough to be fast, small enough for many at once. */
const RUN_PAGES = 256
const COPY_WITHIN_MS = 300_000

interface Mapping {
  startAddress: number
  endAddress: number
  fileOffset: number
}

/**
 * Writes the memory of a stopped guest to `target`, which must not exist. Takes about a second for each GiB in use.
 * @param pid of the monitor
 * @param mappedFile the file it maps, as the monitor's mount namespace has it
 */
export async function copyGuestMemory(pid: number, mappedFile: string, target: string): Promise<void> {
  const source = `/proc/${pid}/root${mappedFile}`
  const { ino, size } = statSync(source)
  await run('cp', ['--sparse=always', '--reflink=auto', '--no-preserve=all', source, target], {
    timeoutMs: COPY_WITHIN_MS,
  })
  const mappings = mappingsOf(pid, ino)
  const mapped = mappings.reduce((sum, { startAddress, endAddress }) => sum + endAddress - startAddress, 0)
  if (mapped !== size) throw new Error(`the monitor maps ${mapped} bytes of a memory of ${size}`)
  const files = await Promise.all([
    open(`/proc/${pid}/pagemap`),
    open(`/proc/${pid}/mem`),
    open(target, 'r+'),
  ])
  const [pageMap, memory, copy] = files
  try {
    for (const mapping of mappings) await copyChanged(mapping, pageMap, memory, copy)
    await copy.chmod(0o444)
  } finally {
    await Promise.all(files.map((file) => file.close()))
  }
}

/** Parts of the process's memory that come from the file with this inode number. */
function mappingsOf(pid: number, inode: number): Mapping[] {
  return readFileSync(`/proc/${pid}/maps`, 'latin1')
    .split('\n')
    .flatMap((line) => {
      const match = /^([0-9a-f]+)-([0-9a-f]+) rw.p ([0-9a-f]+) \S+ (\d+) /.exec(line)
      if (Number(match?.[4]) !== inode) return []
      const [startAddress, endAddress, fileOffset] = match!
        .slice(1, 4)
        .map((text) => Number.parseInt(text, 16))
      return [{ startAddress: startAddress!, endAddress: endAddress!, fileOffset: fileOffset! }]
    })
}

async function copyChanged(
  mapping: Mapping,
  pageMap: FileHandle,
  memory: FileHandle,
  copy: FileHandle,
): Promise<void> {
  const pages = (mapping.endAddress - mapping.startAddress) / PAGE_BYTES
  const entries = Buffer.alloc(pages * ENTRY_BYTES)
  await readWhole(pageMap, entries, (mapping.startAddress / PAGE_BYTES) * ENTRY_BYTES)
  const buffer = Buffer.alloc(RUN_PAGES * PAGE_BYTES)
  for (const { first, count } of changedRuns(entries, pages)) {
    const bytes = buffer.subarray(0, count * PAGE_BYTES)
    await readWhole(memory, bytes, mapping.startAddress + first * PAGE_BYTES)
    await writeWhole(copy, bytes, mapping.fileOffset + first * PAGE_BYTES)
  }
}

/** A page that is there and not the file's was written by the guest, or for it. */
function* changedRuns(entries: Buffer, pages: number): Generator<{ first: number; count: number }> {
  let first = 0
  let count = 0
  for (let page = 0; page < pages; page++) {
    const high = entries.readUInt32LE(page * ENTRY_BYTES + 4)
    const isChanged = (high & SWAPPED) !== 0 || ((high & PRESENT) !== 0 && (high & OF_FILE) === 0)
    if (isChanged && count > 0 && count < RUN_PAGES) count++
    else {
      if (count > 0) yield { first, count }
      first = page
      count = isChanged ? 1 : 0
    }
  }
  if (count > 0) yield { first, count }
}
