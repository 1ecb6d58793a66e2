import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { mountsUnder } from '../../linux/mount-table.ts'
import type { Instance } from '../engine.ts'
import type { ContainerEngine } from './container-engine.ts'
import { guestState, SandboxFixture } from './sandbox-fixture.ts'

const SETUP_TIMEOUT_MS = 180_000

let fixture: SandboxFixture
let engine: ContainerEngine

beforeAll(async () => {
  fixture = await SandboxFixture.make('e2bte')
  engine = fixture.engine()
}, SETUP_TIMEOUT_MS)

afterAll(() => fixture.remove(), SETUP_TIMEOUT_MS)

const firstUid = (instance: Instance): number =>
  Number(readFileSync(`/proc/${instance.initPid}/uid_map`, 'utf8').trim().split(/\s+/)[1])

/** Other tests mount too, elsewhere. */
const ownMounts = (): number => mountsUnder(fixture.parts.dir).length

const processesOf = (instance: Instance): number[] =>
  fixture.parts.options.cgroups.cgroup(String(instance.slot.index)).pids()

/** A sandbox that has answered twice, as memory and as a layer. */
async function captured() {
  const plan = await fixture.plan(0)
  const source = await engine.start(plan)
  await guestState(source)
  await guestState(source)
  const memoryDir = fixture.memoryDir()
  const { sizeBytes } = await engine.capture(source, { memoryDir, leaveRunning: false })
  const layers = [...plan.layers, await fixture.layerOf(plan.upper)]
  return { source, memoryDir, layers, sizeBytes }
}

test('the probe boots, captures and restores', async () => {
  const report = await engine.probe()
  expect(report.usable).toBe(true)
  expect(report.detail).toMatch(/^restores memory/)
})

test('the probe says what is missing', async () => {
  const report = await fixture.engine({ crunPath: '/no/crun' }).probe()
  expect(report).toMatchObject({ usable: false, remedy: 'apt-get install crun' })
})

test('a captured sandbox is gone, and two clones of it go on side by side', async () => {
  const { source, memoryDir, layers, sizeBytes } = await captured()
  expect(sizeBytes).toBeGreaterThan(1_000_000)
  expect(await source.exited).toMatchObject({ status: -9, outOfMemory: false })
  expect(processesOf(source)).toEqual([])

  const plans = await Promise.all([1, 2].map((index) => fixture.plan(index, { memoryDir, layers })))
  const clones = await Promise.all(plans.map((plan) => engine.start(plan)))
  for (const [at, clone] of clones.entries()) {
    expect(await guestState(clone)).toMatchObject({ count: 3, hostname: `host${at + 1}` })
    expect(firstUid(clone)).toBe(clone.slot.uidBase)
    expect(processesOf(clone)).toContain(clone.initPid)
    expect(processesOf(clone).length).toBe(2)
  }
  await Promise.all(clones.map((clone) => engine.stop(clone)))
}, 30_000)

test('a clone is captured while it runs, and its clone continues where it was', async () => {
  const { memoryDir, layers } = await captured()
  const plan = await fixture.plan(1, { memoryDir, layers })
  const clone = await engine.start(plan)
  expect(await guestState(clone)).toMatchObject({ count: 3 })
  const second = fixture.memoryDir()
  let copy = ''
  await engine.capture(clone, {
    memoryDir: second,
    leaveRunning: true,
    whileStill: async () => {
      copy = (await fixture.layerOf(plan.upper)).digest
    },
  })
  expect(await guestState(clone)).toMatchObject({ count: 4 })

  const layer = fixture.parts.layers.get(copy)!
  const third = await engine.start(
    await fixture.plan(2, { memoryDir: second, layers: [...layers, layer], hostname: 'third' }),
  )
  expect(await guestState(third)).toMatchObject({ count: 4, hostname: 'third' })
  await Promise.all([engine.stop(clone), engine.stop(third)])
}, 30_000)

test('a second stop leaves the next sandbox of the slot alone', async () => {
  const first = await engine.start(await fixture.plan(3))
  await guestState(first)
  await Promise.all([engine.stop(first), engine.stop(first)])
  const next = await engine.start(await fixture.plan(3))
  await guestState(next)
  await engine.stop(first)
  expect(await guestState(next)).toMatchObject({ count: 2 })
  await engine.stop(next)
}, 30_000)

test('a stock CRIU restores too, by copying', async () => {
  const { memoryDir, layers } = await captured()
  const { criu } = fixture.parts.options
  const stock = fixture.engine({ criu: { ...criu!, kind: 'stock' } })
  const clone = await stock.start(await fixture.plan(1, { memoryDir, layers, hostname: 'copied' }))
  expect(await guestState(clone)).toMatchObject({ count: 3, hostname: 'copied' })
  expect(firstUid(clone)).toBe(clone.slot.uidBase)
  expect(readFileSync(`/proc/${clone.initPid}/maps`, 'utf8')).not.toContain('pages-')
  await stock.stop(clone)
}, 30_000)

test('a frozen sandbox does nothing until it is thawed', async () => {
  const instance = await engine.start(await fixture.plan(3))
  await guestState(instance)
  await engine.freeze(instance)
  const answer = guestState(instance)
  const early = await Promise.race([answer, new Promise((resolve) => setTimeout(resolve, 200, 'silent'))])
  expect(early).toBe('silent')
  await engine.thaw(instance)
  expect(await answer).toMatchObject({ count: 2 })
  await engine.stop(instance)
})

test('a frozen sandbox can be stopped', async () => {
  const instance = await engine.start(await fixture.plan(3))
  await engine.freeze(instance)
  await engine.stop(instance)
  expect(existsSync(`/proc/${instance.initPid}`)).toBe(false)
})

test('stop leaves no process, no mount and no file, and may be repeated', async () => {
  const plan = await fixture.plan(3)
  const before = ownMounts()
  const instance = await engine.start(plan)
  await guestState(instance)
  const stopped = performance.now()
  await engine.stop(instance)
  expect(performance.now() - stopped).toBeLessThan(200)
  await engine.stop(instance)
  expect(await instance.exited).toMatchObject({ status: -9 })
  expect(processesOf(instance)).toEqual([])
  expect(ownMounts()).toBeLessThanOrEqual(before)
  expect(readdirSync(join(fixture.parts.runDir, 'slots', '3'))).toEqual(['root'])
})

test('a sandbox outlives its engine object and is adopted by the next', async () => {
  const plan = await fixture.plan(4)
  const { initPid } = await engine.start(plan)
  const next = fixture.engine()
  const adopted = await next.adopt({ ...plan, initPid: undefined })
  expect(adopted?.initPid).toBe(initPid)
  expect(await guestState(adopted!)).toMatchObject({ count: 1 })
  expect(await next.adopt({ ...plan, sandboxId: 'another', initPid: undefined })).toBeUndefined()
  await next.stop(adopted!)
  expect(await adopted!.exited).toMatchObject({ status: -9 })
  expect(await next.adopt({ ...plan, initPid })).toBeUndefined()
})

test('a renamed sandbox has its name inside and is found under it', async () => {
  const plan = await fixture.plan(4)
  const instance = await engine.start(plan)
  const renamed = await engine.rename(instance, 'claimed')
  expect(renamed.sandboxId).toBe('claimed')
  expect(await guestState(renamed)).toMatchObject({ hostname: 'claimed' })
  const adopted = await fixture.engine().adopt({ ...plan, sandboxId: 'claimed', initPid: undefined })
  expect(adopted?.initPid).toBe(instance.initPid)
  await engine.stop(renamed)
  expect(await adopted!.exited).toMatchObject({ status: -9 })
})

test('a start that fails says why and leaves nothing', async () => {
  const memoryDir = fixture.memoryDir()
  const plan = await fixture.plan(5, { memoryDir })
  const before = ownMounts()
  await expect(engine.start(plan)).rejects.toThrow(/sandbox5 did not start: .*Error/s)
  expect(ownMounts()).toBeLessThanOrEqual(before)
  expect(fixture.parts.options.cgroups.cgroup('5').pids()).toEqual([])
  mkdirSync(memoryDir, { recursive: true })
  const retried = await engine.start({ ...plan, memoryDir: undefined })
  expect(await guestState(retried)).toMatchObject({ count: 1 })
  await engine.stop(retried)
})
