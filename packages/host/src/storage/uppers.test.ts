import { execFileSync } from 'node:child_process'
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { attachLoopDevice } from '../linux/loop-device.ts'
import { bindMount, mount, umount2, unmountIfMounted } from '../linux/mount.ts'
import { mountsUnder } from '../linux/mount-table.ts'
import { run } from '../linux/process.ts'
import { leftovers } from './leak-check.ts'
import { UpperStore } from './uppers.ts'

const dir = mkdtempSync(join(tmpdir(), 'uppers-'))
const storeOf = (name: string, sizeMib: number) => ({
  ...{ file: join(dir, `${name}.btrfs`), mountPoint: join(dir, name) },
  ...{ sizeMib, readyCount: 0 },
})
const smallStore = (name: string) => storeOf(name, 256)
const options = storeOf('uppers', 1024)
let store: UpperStore

beforeAll(async () => {
  store = await UpperStore.open(options)
})

afterAll(async () => {
  await store.close()
  const left = await leftovers(dir)
  rmSync(dir, { recursive: true, force: true })
  expect(left).toEqual([])
})

function fill(path: string, mib: number): string | undefined {
  const result = execFileSync(
    'sh',
    ['-c', 'dd if=/dev/zero of="$0" bs=1M count="$1" conv=fsync 2>&1 || true', path, String(mib)],
    { encoding: 'utf8' },
  )
  return /Disk quota exceeded|No space left/.exec(result)?.[0]
}

test('an upper takes what its cap allows and refuses more', () => {
  const upper = store.take(32)
  expect(fill(join(upper.path, 'upper', 'fits'), 16)).toBeUndefined()
  expect(fill(join(upper.path, 'upper', 'large'), 64)).toBeDefined()
  store.release(upper)
})

test('one full upper leaves the others writable', () => {
  const [full, other] = [store.take(16), store.take(16)]
  expect(fill(join(full.path, 'upper', 'file'), 32)).toBeDefined()
  expect(fill(join(other.path, 'upper', 'file'), 8)).toBeUndefined()
  store.release(full)
  store.release(other)
})

test('a released upper is gone with its content, however often it is released', async () => {
  const upper = store.take(16)
  writeFileSync(join(upper.path, 'upper', 'secret'), 'x')
  store.release(upper)
  store.release(upper)
  await store.settled()
  expect(existsSync(upper.path)).toBe(false)
})

test('usage counts what an upper holds', () => {
  const upper = store.take(64)
  fill(join(upper.path, 'upper', 'file'), 10)
  execFileSync('sync', ['-f', upper.path])
  const usedMib = store.usageBytes(upper) / 1024 / 1024
  expect(usedMib).toBeGreaterThan(9)
  expect(usedMib).toBeLessThan(12)
  store.release(upper)
})

test('uppers are made ahead, capped when taken, and not seen or swept before', async () => {
  const other = {
    file: join(dir, 'ready.btrfs'),
    mountPoint: join(dir, 'ready'),
    sizeMib: 512,
    readyCount: 3,
  }
  const ahead = await UpperStore.open(other)
  await ahead.settled()
  const made = readdirSync(other.mountPoint)
  expect(made).toHaveLength(3)
  expect(ahead.list()).toEqual([])
  expect(ahead.sweep(new Set())).toEqual([])
  const upper = ahead.take(16)
  expect(made).toContain(upper.id)
  expect(ahead.list()).toEqual([upper.id])
  expect(fill(join(upper.path, 'upper', 'file'), 32)).toBeDefined()
  await ahead.settled()
  expect(readdirSync(other.mountPoint)).toHaveLength(4)
  await ahead.close()
  const again = await UpperStore.open({ ...other, readyCount: 0 })
  expect(again.list()).toEqual([upper.id])
  await again.close()
})

test('what uppers hold is no longer available', () => {
  const before = store.availableBytes()
  const upper = store.take(128)
  fill(join(upper.path, 'upper', 'file'), 100)
  const usedMib = (before - store.availableBytes()) / 1024 / 1024
  expect(usedMib).toBeGreaterThan(90)
  store.release(upper)
})

test('a snapshot keeps what the upper held and does not follow it', async () => {
  const upper = store.take(16)
  writeFileSync(join(upper.path, 'upper', 'before'), 'x')
  const copy = await store.snapshot(upper)
  writeFileSync(join(upper.path, 'upper', 'after'), 'x')
  expect(readdirSync(join(copy.path, 'upper'))).toEqual(['before'])
  expect(() => writeFileSync(join(copy.path, 'upper', 'new'), '')).toThrow('EROFS')
  store.release(copy)
  store.release(upper)
  await store.settled()
  expect(existsSync(copy.path)).toBe(false)
})

test('a clone starts with what its base holds, counts it against the cap, and outlives it', async () => {
  const base = store.take(32)
  fill(join(base.path, 'upper', 'file'), 20)
  const copy = await store.snapshot(base)
  const clone = await store.clone(copy, 32)
  expect(store.list()).not.toContain(clone.id)
  store.recorded(clone)
  expect(store.list()).toContain(clone.id)
  store.release(copy)
  store.release(base)
  expect(fill(join(clone.path, 'upper', 'little'), 8)).toBeUndefined()
  expect(fill(join(clone.path, 'upper', 'much'), 16)).toBeDefined()
  expect(store.usageBytes(clone)).toBeGreaterThan(20 * 1024 * 1024)
  store.release(clone)
  await store.settled()
})

test('what was deleted before a clone is made is not counted, round after round', async () => {
  let upper = store.take(32)
  for (let round = 0; round < 5; round++) {
    const file = join(upper.path, 'upper', 'file')
    expect(fill(file, 20)).toBeUndefined()
    rmSync(file)
    const next = await store.clone(upper, 32)
    store.release(upper)
    upper = next
  }
  store.release(upper)
  await store.settled()
})

test('what a clone deletes of its inheritance comes back to it while it runs, up to its cap', async () => {
  const base = store.take(64)
  fill(join(base.path, 'upper', 'file'), 48)
  const clone = await store.clone(await store.snapshot(base), 64)
  expect(await store.recount(clone)).toBe(0)
  rmSync(join(clone.path, 'upper', 'file'))
  expect(fill(join(clone.path, 'upper', 'own'), 40)).toBe('Disk quota exceeded')
  rmSync(join(clone.path, 'upper', 'own'))
  await store.sync(clone)
  expect(await store.recount(clone)).toBeGreaterThan(40 * 2 ** 20)
  expect(store.usageBytes(clone)).toBeLessThan(20 * 2 ** 20)
  expect(fill(join(clone.path, 'upper', 'own'), 40)).toBeUndefined()
  expect(fill(join(clone.path, 'upper', 'more'), 40)).toBe('Disk quota exceeded')
})

test('a store opened again finds the uppers of the one before and sweeps what nobody knows', async () => {
  const [kept, lost] = [store.take(16), store.take(16)]
  writeFileSync(join(kept.path, 'upper', 'file'), 'kept')
  const again = await UpperStore.open(options)
  expect(again.list()).toContain(kept.id)
  expect(again.sweep(new Set([kept.id]))).toContain(lost.id)
  await again.settled()
  expect(again.list()).toEqual([kept.id])
  again.release(kept)
  await again.settled()
})

test('the file survives an unmount, as over a reboot, with its caps', async () => {
  const upper = store.take(16)
  await store.close()
  expect(mountsUnder(dir)).toEqual([])
  store = await UpperStore.open(options)
  expect(store.list()).toEqual([upper.id])
  expect(fill(join(upper.path, 'upper', 'file'), 32)).toBeDefined()
  store.release(upper)
})

test('a store that is unmounted while a sandbox holds it is found again, not opened twice', async () => {
  const upper = store.take(16)
  const held = join(dir, 'held')
  mkdirSync(held)
  bindMount(upper.path, held)
  await store.close()
  store = await UpperStore.open(options)
  writeFileSync(join(held, 'upper', 'file'), 'seen')
  expect(readFileSync(join(upper.path, 'upper', 'file'), 'utf8')).toBe('seen')
  umount2(held)
  store.release(upper)
})

test('a file that is no file system is set aside', async () => {
  const other = smallStore('other')
  writeFileSync(other.file, 'garbage')
  const opened = await UpperStore.open(other)
  expect(opened.list()).toEqual([])
  expect(existsSync(`${other.file}.damaged`)).toBe(true)
  await opened.close()
})

test('a store whose making was cut off is made anew, and is found by the next daemon', async () => {
  const other = smallStore('cut')
  await UpperStore.open(other)
  renameSync(other.file, `${other.file}.new`)
  const opened = await UpperStore.open(other)
  const upper = opened.take(16)
  expect(fill(join(upper.path, 'upper', 'file'), 32)).toBeDefined()
  await opened.close()
  const again = await UpperStore.open(other)
  expect(again.list()).toEqual([upper.id])
  await again.close()
})

test('of a file that is held and cannot be mounted nothing counts as gone', async () => {
  const other = smallStore('held')
  // As one whose disk was full: the kernel does not even read it by another mount.
  writeFileSync(other.file, Buffer.alloc(2 ** 20))
  const device = attachLoopDevice(other.file)
  const opened = await UpperStore.open(other)
  const path = join(other.mountPoint, 'paused')
  expect([opened.isWritable(), opened.has({ path })]).toEqual([false, true])
  expect(() => opened.take(16)).toThrow('ENOSPC')
  closeSync(device.fd)
  await opened.close()
  const again = await UpperStore.open(other)
  expect([again.isWritable(), again.has({ path })]).toEqual([true, false])
  await again.close()
})

test('a copy that cannot be finished leaves nothing', async () => {
  const base = store.take(16)
  const before = readdirSync(store.mountPoint).filter((name) => !store.list().includes(name))
  // No number of bytes.
  await expect(store.clone(base, Number.NaN)).rejects.toThrow()
  store.release(base)
  await store.settled()
  const left = readdirSync(store.mountPoint).filter((name) => !before.includes(name))
  expect(left).toEqual([])
})

/** A disk of 600 MiB of its own below `use`. */
async function onSmallDisk(use: (disk: string) => Promise<void>): Promise<void> {
  const [image, disk] = [join(dir, 'disk.ext4'), join(dir, 'disk')]
  mkdirSync(disk)
  writeFileSync(image, '')
  truncateSync(image, 600 * 2 ** 20)
  await run('mkfs.ext4', ['-q', '-F', '-m', '0', image])
  const device = attachLoopDevice(image)
  mount(device.path, disk, 'ext4')
  closeSync(device.fd)
  try {
    await use(disk)
  } finally {
    for (const path of [join(dir, 'held-too'), join(dir, 'small'), disk]) unmountIfMounted(path)
    rmSync(image)
  }
}

test('a store whose disk was full takes uppers again once there is room and nobody holds it', async () => {
  await onSmallDisk(async (disk) => {
    const small = {
      file: join(disk, 'uppers.btrfs'),
      mountPoint: join(dir, 'small'),
      sizeMib: 2048,
      readyCount: 2,
    }
    const [held, ballast] = [join(dir, 'held-too'), join(disk, 'ballast')]
    let full = await UpperStore.open(small)
    const upper = full.take(512)
    writeFileSync(join(upper.path, 'upper', 'before'), 'kept')
    await full.sync(upper)
    full.assertRoom()
    expect(fill(ballast, 1024)).toBe('No space left')
    expect(() => full.assertRoom()).toThrow('make room on its disk')
    const commit = async (): Promise<boolean> => {
      fill(join(upper.path, 'upper', 'much'), 64)
      await full.sync(upper).catch(() => {})
      return full.isWritable()
    }
    await expect.poll(commit, { timeout: 60_000 }).toBe(false)
    for (const attempt of [() => full.take(16), () => full.assertRoom()])
      expect(attempt).toThrow(expect.objectContaining({ code: 'ENOSPC' }))
    expect(await full.reopen()).toBe(false)
    rmSync(ballast)
    mkdirSync(held)
    bindMount(upper.path, held)
    expect(await full.reopen()).toBe(false)
    // So does the next daemon, which adopts who holds it.
    full = await UpperStore.open(small)
    expect(full.isWritable()).toBe(false)
    umount2(held)
    // A process that is just making itself a mount namespace holds it for a moment.
    await expect.poll(() => full.reopen(), { timeout: 20_000, interval: 200 }).toBe(true)
    expect(readFileSync(join(upper.path, 'upper', 'before'), 'utf8')).toBe('kept')
    full.assertRoom()
    expect(fill(join(full.take(64).path, 'upper', 'file'), 16)).toBeUndefined()
  })
}, 90_000)
