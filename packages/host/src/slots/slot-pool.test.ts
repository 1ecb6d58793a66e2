import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { CgroupRoot } from '../linux/cgroup-root.ts'
import { mountNew } from '../linux/mount.ts'
import { mountsUnder } from '../linux/mount-table.ts'
import { run } from '../linux/process.ts'
import { NetworkSlots } from '../network/network-slots.ts'
import { NoSlotError, SlotPool } from './slot-pool.ts'
import { guestAddress, type Slot, slotDir } from './slots.ts'

const instance = `p${process.pid.toString(36)}`
const naming = {
  instance,
  addressRange: `10.${125 + (process.pid % 3)}.0.0/16`,
  uidBase: 0x7400_0000,
  runDir: mkdtempSync(join(tmpdir(), 'pool-')),
}
const errors: unknown[] = []
const readied: number[] = []
const restored = Promise.withResolvers<void>()
let pool: SlotPool

function makePool(
  readyCount: number,
  maxSlots = 3,
  onReady = async (slot: Slot): Promise<void> => void readied.push(slot.index),
): SlotPool {
  return new SlotPool({
    naming,
    network: new NetworkSlots(naming),
    cgroups: new CgroupRoot({ instance }),
    readyCount,
    maxSlots,
    onReady,
    onError: (_, error) => errors.push(error),
    onRulesLost: (error) => (error === undefined ? restored.resolve() : restored.reject(error)),
  })
}

beforeEach(async () => {
  readied.length = 0
  pool = makePool(2)
  await pool.start()
})

afterEach(async () => {
  await pool.stop({ destroy: true })
  expect(errors.splice(0)).toEqual([])
  expect(readdirSync('/run/netns').filter((name) => name.startsWith(instance))).toEqual([])
  expect(readdirSync('/sys/class/net').filter((name) => name.startsWith(instance))).toEqual([])
  expect((await run('nft', ['list', 'tables'])).stdout).not.toContain(instance)
  expect(mountsUnder(naming.runDir)).toEqual([])
  for (const path of pool.slot(0).cgroupPaths) expect(existsSync(join(path, '..'))).toBe(false)
  rmSync(naming.runDir, { recursive: true, force: true })
})

function sleeperIn(slot: Slot): ChildProcess {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  pool.cgroup(slot.index).add(child.pid!)
  return child
}

test('slots are ready ahead, distinct, and claiming one makes another', async () => {
  expect(pool.counts).toEqual({ ready: 2, inUse: 0, busy: 0 })
  const first = pool.tryClaim()!
  const second = pool.tryClaim()!
  expect(new Set([first.netnsPath, second.netnsPath, first.address, second.address]).size).toBe(4)
  expect(second.uidBase - first.uidBase).toBe(65_536)
  expect(pool.tryClaim()).toBeUndefined()
  const third = await pool.claim()
  expect(existsSync(third.netnsPath)).toBe(true)
  expect(readied).toEqual([0, 1, 2])
  await expect(pool.claim()).rejects.toThrow(NoSlotError)
})

test('a released slot comes back without processes, mounts, files, counters and policy of its last use', async () => {
  const slot = pool.tryClaim()!
  const child = sleeperIn(slot)
  const exited = once(child, 'exit')
  pool.cgroup(slot.index).setLimits({ memoryMib: 64, pids: 9, cpuCount: 1 })
  const left = join(slotDir(naming, slot.index), 'root')
  mkdirSync(left)
  mountNew('tmpfs', [], left)
  writeFileSync(join(left, 'secret'), '')
  pool.setPolicy(slot, { internet: false })
  pool.release(slot)
  pool.release(slot)
  await exited
  await pool.idle()
  expect(existsSync(left)).toBe(false)
  expect(existsSync(join(slot.sysfsPath, 'class/net/eth0'))).toBe(true)
  expect(pool.cgroup(slot.index).usage()).toMatchObject({ pids: 0, cpuUsec: 0, oomKills: 0 })
  expect((await run('nft', ['list', 'set', 'inet', instance, 'denied'])).stdout).not.toContain('elements')
  expect(pool.counts).toEqual({ ready: 3, inUse: 0, busy: 0 })
})

test('a slot that no engine has cleared comes back with nothing that was attached to it', async () => {
  const slot = pool.tryClaim()!
  const inside = (words: string) => run('ip', ['-n', basename(slot.netnsPath), ...words.split(' ')])
  await inside('link add sentry0 type veth peer name other0')
  await inside('address flush dev eth0')
  pool.release(slot, { isCleared: false })
  await pool.idle()
  const { stdout } = await inside('address show')
  expect(stdout).toContain(guestAddress)
  expect(stdout).not.toContain('sentry0')
})

test('a claim waits for a slot that is being cleaned', async () => {
  const slots = [await pool.claim(), await pool.claim(), await pool.claim()]
  pool.release(slots[1]!)
  expect(await pool.claim()).toEqual(slots[1])
})

test('after a burst only some slots stay ready, the others are removed and can be made again', async () => {
  await pool.stop({ destroy: true })
  pool = makePool(1, 7)
  await pool.start()
  const slots: Slot[] = []
  for (let count = 0; count < 6; count++) slots.push(await pool.claim())
  const exits = slots.map((slot) => once(sleeperIn(slot), 'exit'))
  for (const slot of slots) pool.release(slot)
  await Promise.all(exits)
  await pool.idle()
  expect(pool.counts).toEqual({ ready: 4, inUse: 0, busy: 0 })
  const left = slots.filter((slot) => existsSync(slot.netnsPath))
  expect(left.length).toBe(3)
  for (const slot of slots) {
    const isLeft = left.includes(slot)
    expect(existsSync(slotDir(naming, slot.index))).toBe(isLeft)
    expect(slot.cgroupPaths.some((path) => existsSync(path))).toBe(isLeft)
  }
  const links = readdirSync('/sys/class/net').filter((name) => name.startsWith(instance))
  expect(links.length).toBe(4)
  for (let count = 0; count < 7; count++) expect(existsSync((await pool.claim()).netnsPath)).toBe(true)
})

test('what the machine lacks for a while costs it no slot', { timeout: 15_000 }, async () => {
  // As without memory or processes: nothing can be made while a namespace cannot.
  const broken = [2, 3, 4, 5].map((index) => pool.slot(index).netnsPath)
  await pool.stop({ destroy: true })
  pool = makePool(2, 6)
  await pool.start()
  for (const path of broken) mkdirSync(path)
  try {
    pool.tryClaim()
    pool.tryClaim()
    await expect.poll(() => errors.length).toBeGreaterThan(1)
  } finally {
    for (const path of broken) rmdirSync(path)
  }
  expect(existsSync((await pool.claim()).netnsPath)).toBe(true)
  await pool.claim()
  await pool.idle()
  errors.length = 0
  expect(pool.counts.inUse).toBe(4)
})

test('one that cannot be readied is tried again, but not at once', { timeout: 15_000 }, async () => {
  await pool.stop({ destroy: true })
  let failures = 1
  pool = makePool(1, 1, async () => {
    if (failures-- > 0) throw new Error('no process can be started')
  })
  await pool.start()
  expect(pool.counts).toEqual({ ready: 0, inUse: 0, busy: 0 })
  expect((await pool.claim()).index).toBe(0)
  expect(errors.splice(0).length).toBe(1)
})

test('a firewall table that somebody removed is put back', { timeout: 10_000 }, async () => {
  await run('nft', ['delete', 'table', 'inet', instance])
  await restored.promise
  expect((await run('nft', ['list', 'set', 'inet', instance, 'slots'])).stdout).toContain(`"${instance}0h"`)
})

test('after a restart, slots in use keep running and the others are removed and made anew', async () => {
  const kept = pool.tryClaim()!
  const stray = pool.tryClaim()!
  const keptChild = sleeperIn(kept)
  const strayExit = once(sleeperIn(stray), 'exit')
  await pool.stop({ destroy: false })
  pool = makePool(1)
  await pool.start(new Map([[kept.index, { internet: false }]]))
  await strayExit
  expect(pool.cgroup(kept.index).pids()).toEqual([keptChild.pid])
  expect(pool.counts).toEqual({ ready: 1, inUse: 1, busy: 0 })
  expect(pool.tryClaim()!.index).toBe(stray.index)
  const keptExit = once(keptChild, 'exit')
  pool.release(kept)
  await keptExit
})
