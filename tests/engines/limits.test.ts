/** What a greedy guest gets, and that its neighbour notices nothing. */
import { constants } from 'node:os'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { CgroupRoot } from '../../packages/host/src/linux/cgroup-root.ts'
import { shell } from '../system/harness/test-host.ts'
import { descriptorBomb, FORK_BOMB, fileBomb, MEMORY_BOMB } from './bombs.ts'
import { describeEngines, EngineHost, python } from './engine-host.ts'

const FIRST_BOOT_MS = 120_000
const BOMB_MS = 60_000
const FORK_BOMBS = 5

describeEngines('limits', (engine) => {
  const under = new EngineHost(engine)
  const { host } = under
  let neighbour: string
  beforeAll(async () => {
    await under.start()
    neighbour = await under.run('neighbour')
  }, FIRST_BOOT_MS)
  afterAll(() => host.dispose(), FIRST_BOOT_MS)

  const neighbourIsFine = async (): Promise<void> => {
    const began = performance.now()
    expect(await shell(neighbour, 'echo fine')).toBe('fine')
    expect(performance.now() - began).toBeLessThan(10_000)
  }

  /** After a bomb. */
  const livesOn = async (sandboxId: string, address: string): Promise<void> => {
    expect(await shell(address, 'echo lives')).toBe('lives')
    await under.stop(sandboxId)
  }

  it(
    'memory: a bomb takes what it was given, no more',
    async () => {
      const address = await under.run('memory', { resources: { memoryMib: 256 } })
      const cgroups = new CgroupRoot({ instance: host.instance })
      let mostBytes = 0
      const watch = setInterval(() => {
        for (const name of cgroups.list()) mostBytes = Math.max(mostBytes, usedBytes(cgroups, name))
      }, 20)
      const bomb = python(address, MEMORY_BOMB)
      const printed = await bomb.catch(() => 'ended')
      clearInterval(watch)
      expect(printed).toBe('ended')
      expect(mostBytes).toBeGreaterThan(64 * 2 ** 20)
      expect(mostBytes).toBeLessThan((256 + engine.memoryReserveMib) * 2 ** 20)
      await neighbourIsFine()
      await livesOn('memory', address)
    },
    BOMB_MS,
  )

  it('memory: the kernel tells of what there is, at a boot and after a restore', async () => {
    for (const memory of [true, false]) {
      const address = await under.run('told', { resources: { memoryMib: 256 }, memory })
      const totalMib = await python(address, 'import os; print(os.sysconf("SC_PHYS_PAGES") // 256)')
      expect(Number(totalMib) <= 256, totalMib).toBe(engine.tellsMemory)
      await under.stop('told')
    }
  }, 120_000)

  it(
    'processes: a fork bomb meets its limit, the same each time',
    async () => {
      const address = await under.run('processes', { resources: { pids: 64, memoryMib: 2048 } })
      const counts: number[] = []
      for (let bomb = 0; bomb < FORK_BOMBS; bomb++) {
        const [errno, count] = (await python(address, FORK_BOMB)).split('\n').map(Number)
        expect(errno).toBe(constants.errno.EAGAIN)
        counts.push(count!)
      }
      expect(Math.max(...counts)).toBeLessThan(64)
      expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(2)
      await neighbourIsFine()
      await livesOn('processes', address)
    },
    BOMB_MS,
  )

  it(
    'files: as many as a process may have open, and the machine has more',
    async () => {
      const address = await under.run('descriptors')
      const text = await python(address, descriptorBomb(20_000))
      expect(text).toBe('24\nTrue')
      await neighbourIsFine()
      await under.stop('descriptors')
    },
    BOMB_MS,
  )

  it(
    'disk: bytes',
    async () => {
      const address = await under.run('disk', { resources: { diskMib: 64 } })
      const text = await shell(
        address,
        'dd if=/dev/zero of=/var/bomb bs=1M count=500 2>&1; stat -c %s /var/bomb; rm /var/bomb',
      )
      expect(text).toMatch(/No space left on device|Disk quota exceeded/)
      expect(Number(text.split('\n').at(-1))).toBeLessThan(72 * 2 ** 20)
      await neighbourIsFine()
      await under.stop('disk')
    },
    BOMB_MS,
  )

  it(
    'disk: inodes',
    async () => {
      const address = await under.run('inodes', { resources: { diskMib: 8 } })
      const text = await python(address, fileBomb('/var/bomb', 200_000))
      // ENOSPC or EDQUOT.
      expect([28, 122]).toContain(Number(text))
      await neighbourIsFine()
      await under.stop('inodes')
    },
    BOMB_MS,
  )

  it(
    'processors: four busy loops get one',
    async () => {
      const address = await under.run('busy')
      const cgroups = new CgroupRoot({ instance: host.instance })
      const usage = (): number =>
        cgroups.list().reduce((sum, name) => sum + cgroups.cgroup(name).usage().cpuUsec, 0)
      const [beganUsec, beganMs] = [usage(), performance.now()]
      await shell(address, 'for i in 1 2 3 4; do timeout 3 sh -c "while :; do :; done" & done; wait; true')
      const used = (usage() - beganUsec) / 1000 / (performance.now() - beganMs)
      expect(used).toBeLessThan(1.35)
      await under.stop('busy')
    },
    BOMB_MS,
  )
})

function usedBytes(cgroups: CgroupRoot, name: string): number {
  try {
    return cgroups.cgroup(name).usage().memoryBytes
  } catch {
    // It went while its numbers were read.
    return 0
  }
}
