import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { UpperStore } from '../../storage/uppers.ts'
import { diskPath, prepareDisk } from './disk.ts'

const dir = mkdtempSync(join(tmpdir(), 'disks-'))
let uppers: UpperStore

beforeAll(async () => {
  uppers = await UpperStore.open({
    file: join(dir, 'uppers.btrfs'),
    mountPoint: join(dir, 'uppers'),
    sizeMib: 512,
  })
})

afterAll(async () => {
  rmSync(join(uppers.mountPoint, '.seeds'), { recursive: true })
  await uppers.settled()
  await uppers.close()
  rmSync(dir, { recursive: true })
})

/** Makes the disk of a clone of memory that is there. */
async function cloneOf(name: string): Promise<void> {
  const memoryDir = join(dir, name)
  mkdirSync(memoryDir, { recursive: true })
  writeFileSync(diskPath(memoryDir), name.repeat(4096), { flag: 'a' })
  const upper = uppers.take(16)
  const seedsDir = join(uppers.mountPoint, '.seeds')
  await prepareDisk({ upper, diskMib: 16, memoryDir, uid: 0, seedsDir })
  uppers.release(upper)
}

test('what clones are copies of goes when its memory is gone, without a restart', async () => {
  const seeds = (): number => readdirSync(join(uppers.mountPoint, '.seeds')).length
  await cloneOf('one')
  await cloneOf('two')
  expect(seeds()).toBe(4)
  for (const name of ['one', 'two']) rmSync(join(dir, name), { recursive: true })
  await cloneOf('three')
  expect(seeds()).toBe(2)
})
