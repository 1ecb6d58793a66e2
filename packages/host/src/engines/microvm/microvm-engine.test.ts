import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { run } from '../../linux/process.ts'
import type { Slot } from '../../slots/slots.ts'
import type { Instance } from '../engine.ts'
import { guestState, inGuest, MachineFixture } from './machine-fixture.ts'
import type { MicrovmEngine } from './microvm-engine.ts'
import type { RunningMachine } from './monitor.ts'
import { QemuMonitor } from './qemu.ts'

/** Guests are emulated here: everything takes tens of times as long as on a processor of their own. */
const SETUP_TIMEOUT_MS = 300_000
const TEST_TIMEOUT_MS = 300_000
/** Less than a probe waits for a guest that is silent. */
const SOON_MS = 150_000

let fixture: MachineFixture
let engine: MicrovmEngine
/** A machine that has answered, as memory; its count goes on from 1. */
let memoryDir: string

beforeAll(async () => {
  fixture = await MachineFixture.make('mvmt', '10.48.0.0/24')
  engine = fixture.engine()
}, SETUP_TIMEOUT_MS)

afterAll(() => fixture.remove(), SETUP_TIMEOUT_MS)

const inShell = (instance: Instance, script: string): Promise<string> =>
  inGuest(instance, '/bin/sh', '-c', script)

const statusOf = (instance: Instance, field: string): string =>
  new RegExp(`^${field}:\\s*(.*)$`, 'm').exec(
    readFileSync(`/proc/${instance.initPid}/status`, 'utf8'),
  )?.[1] ?? ''

async function networkOf({ netnsPath }: Slot): Promise<string> {
  const name = netnsPath.split('/').at(-1)!
  const views = [['addr'], ['route'], ['neigh']].map((words) => run('ip', ['-o', '-n', name, ...words]))
  return (await Promise.all(views))
    .map(({ stdout }) => stdout.replace(/ (STALE|REACHABLE).*/g, ''))
    .join('\n')
}

/** The guest's memory as its monitor maps it: what is there of it, and what of that is no page of the snapshot's file. */
function guestMemory({ initPid }: Instance): { touchedKib: number; ownKib: number } {
  const mappings = readFileSync(`/proc/${initPid}/smaps`, 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
  const memory = mappings.filter((mapping) => mapping.split('\n')[0]!.endsWith('/memory'))
  const sumOf = (field: string): number =>
    memory.reduce((sum, text) => sum + Number(new RegExp(`^${field}:\\s*(\\d+)`, 'm').exec(text)?.[1]), 0)
  return { touchedKib: sumOf('Rss'), ownKib: sumOf('Anonymous') }
}

/** A directory where a boot puts a file. */
const OBSTRUCT = `'fs.rmSync("/etc/resolv.conf"); fs.mkdirSync("/etc/resolv.conf/deep", { recursive: true })'`

/** What the agent does before a capture. */
const SYNC = `'fs.fsyncSync(fs.openSync("/alone"))'`

const timed = (name: string, body: () => Promise<void>): void => test(name, body, TEST_TIMEOUT_MS)

timed('the probe boots a guest, and emulation is used only where it is asked for', async () => {
  expect(await engine.probe()).toMatchObject({ usable: true })
  const unasked = await fixture.engine({ mayEmulate: false }).probe()
  expect(unasked).toMatchObject({ usable: false, detail: expect.stringContaining('asked for') })
  expect(readdirSync(join(fixture.parts.runDir, 'slots'))).toEqual([])
})

test('a guest that ends before it speaks is not waited for', { timeout: SOON_MS }, async () => {
  const { image } = fixture.parts.options
  const initramfsPath = join(fixture.parts.dir, 'no-initramfs')
  writeFileSync(initramfsPath, '')
  const report = await fixture.engine({ image: { ...image, initramfsPath } }).probe()
  expect(report).toMatchObject({ usable: false, detail: expect.not.stringContaining('was silent') })
  expect(report.detail).toContain('no guest comes up')
})

timed('a KVM that opens but runs no guest is passed over for the next monitor', async () => {
  const kvm = new QemuMonitor({ ...fixture.qemuOptions, accelerator: 'kvm', timeScale: 1 })
  const alone = await fixture.engine({ monitors: [kvm] }).probe()
  const both = fixture.engine({ monitors: [kvm, ...fixture.parts.options.monitors] })
  expect(await both.probe()).toMatchObject({ usable: true })
  expect(both.hostClass()).toContain(alone.usable ? '-kvm-' : '-tcg-')
  const instance = await both.start(await fixture.plan(0))
  expect(await guestState(instance)).toMatchObject({ count: 1 })
  await both.stop(instance)
})

timed('a machine boots, runs as nobody, is captured, and stopped leaves its slot as it was', async () => {
  const plan = await fixture.plan(0)
  const before = await networkOf(plan.slot)
  const instance = await engine.start(plan)
  expect(await guestState(instance)).toEqual({ count: 1, hostname: 'host0' })
  expect(await inShell(instance, 'cat /etc/resolv.conf')).toBe('nameserver 169.254.0.22')
  expect(await inShell(instance, 'cat /proc/cpuinfo')).not.toMatch(/\b(vmx|svm)\b/)
  expect(statusOf(instance, 'Uid')).toBe(Array(4).fill(plan.slot.uidBase).join('\t'))
  expect([
    statusOf(instance, 'CapBnd'),
    statusOf(instance, 'NoNewPrivs'),
    statusOf(instance, 'Seccomp'),
  ]).toEqual(['0000000000000000', '1', '2'])
  const seen = (path: string): string[] => readdirSync(`/proc/${instance.initPid}/root${path}`).sort()
  const system = ['/bin', '/lib', '/lib64', '/sbin', '/usr'].filter((path) => existsSync(path))
  expect(seen('/')).toEqual(['dev', 'etc', 'run', ...system.map((path) => path.slice(1))].sort())
  expect(seen('/run')).toEqual(['drive0', 'drive1', 'drive2', 'initramfs', 'kernel', 'memory'])
  // It holds no mount of this machine, nor of the machines beside it.
  const mounts = readFileSync(`/proc/${instance.initPid}/mountinfo`, 'utf8').trimEnd().split('\n')
  const allowed = ['/', '/etc/ld.so.cache', ...system]
  const others = mounts.map((line) => line.split(' ')[4]!).filter((path) => !allowed.includes(path))
  expect(others.filter((path) => !/^\/(run|dev)\/./.test(path))).toEqual([])
  for (const time of ['once', 'again']) expect(await engine.console(instance), time).toContain('Booting')
  await inShell(instance, 'echo kept > /kept')
  memoryDir = fixture.memoryDir()
  const { sizeBytes } = await engine.capture(instance, { memoryDir, leaveRunning: false })
  expect(sizeBytes).toBeGreaterThan(20 * 2 ** 20)
  expect(await instance.exited).toMatchObject({ status: -9, outOfMemory: false })
  await engine.stop(instance)
  expect(existsSync(`/proc/${instance.initPid}`)).toBe(false)
  expect(readdirSync(join(fixture.parts.runDir, 'slots', '0'))).toEqual(['sys'])
  expect(await networkOf(plan.slot)).toBe(before)
})

timed('two clones go on side by side, share what they do not write, and write for themselves', async () => {
  const plans = await Promise.all([1, 2].map((index) => fixture.plan(index, { memoryDir })))
  const clones = await Promise.all(plans.map((plan) => engine.start(plan)))
  const [one, two] = [clones[0]!, clones[1]!]
  for (const clone of clones) {
    expect(await guestState(clone)).toMatchObject({ count: 2 })
    expect(await inShell(clone, 'cat /kept')).toBe('kept')
  }
  await inShell(one, 'echo one > /own')
  expect(await inShell(two, 'cat /own || true')).toContain('No such file')
  for (const clone of clones) {
    const { touchedKib, ownKib } = guestMemory(clone)
    expect(touchedKib - ownKib).toBeGreaterThan(30_000)
    expect(ownKib).toBeLessThan(touchedKib / 4)
  }
  await Promise.all([engine.stop(one), engine.stop(two)])
})

timed('a clone is captured while it runs, and its own clone goes on from there in another slot', async () => {
  const clone = await engine.start(await fixture.plan(1, { memoryDir }))
  await guestState(clone)
  await inShell(clone, 'echo later > /later')
  const second = fixture.memoryDir()
  const copy = fixture.parts.uppers.nameCopy(clone.upper)
  await engine.capture(clone, { memoryDir: second, leaveRunning: true, upperCopyPath: copy.path })
  expect(existsSync(join(second, 'disk.img'))).toBe(false)
  expect(await guestState(clone)).toMatchObject({ count: 3 })

  const upper = await fixture.parts.uppers.clone(copy, 256)
  const third = await engine.start(await fixture.plan(2, { memoryDir: second, upper }))
  expect(await guestState(third)).toMatchObject({ count: 3 })
  expect(await inShell(third, 'cat /later')).toBe('later')
  await engine.stop(third)

  const { image } = fixture.parts.options
  const rebuilt = fixture.engine({ image: { ...image, digest: 'another' } })
  expect(rebuilt.hostClass()).not.toBe(engine.hostClass())
  expect(rebuilt.restores(engine.memoryClass(clone))).toBe(true)
  const other = fixture.engine({
    monitors: [new QemuMonitor({ ...fixture.qemuOptions, accelerator: 'kvm' })],
  })
  expect(other.restores(engine.memoryClass(clone))).toBe(false)
  await engine.stop(clone)
})

timed('memory goes on with the agent that it was captured with, whatever newer one there is', async () => {
  const { agentLayer } = fixture.parts.options
  const newer = fixture.engine({ agentLayer: await smallLayer('newer') })
  await newer.probe()
  expect(newer.hostClass(agentLayer.digest)).toBe(engine.hostClass())
  await expect(newer.start(await fixture.plan(3, { memoryDir }))).rejects.toThrow('other layers')
  const clone = await newer.start(await fixture.plan(3, { memoryDir, agentLayer }))
  expect(await guestState(clone)).toMatchObject({ count: 2 })
  await newer.stop(clone)
})

timed(
  'frozen it does nothing until it is thawed, and a capture that is given up leaves it running',
  async () => {
    const instance = await engine.start(await fixture.plan(3, { memoryDir }))
    await engine.freeze(instance)
    const answer = guestState(instance)
    const early = await Promise.race([answer, new Promise((resolve) => setTimeout(resolve, 1_000, 'silent'))])
    expect(early).toBe('silent')
    await engine.thaw(instance)
    expect(await answer).toMatchObject({ count: 2 })

    const givenUp = engine.capture(instance, {
      memoryDir: fixture.memoryDir(),
      leaveRunning: false,
      whileStill: () => Promise.reject(new Error('given up')),
    })
    await expect(givenUp).rejects.toThrow('given up')
    expect(await guestState(instance)).toMatchObject({ count: 3 })
    await engine.stop(instance)
  },
)

timed('a machine that stood still too late to be kept goes on', async () => {
  const late = new (class extends QemuMonitor {
    override async pause(machine: RunningMachine): Promise<void> {
      await super.pause(machine)
      throw new Error('too late')
    }
  })(fixture.qemuOptions)
  await late.support()
  const instance = await engine.start(await fixture.plan(3, { memoryDir }))
  const keeping = fixture
    .engine({ monitors: [late] })
    .capture(instance, { memoryDir: undefined, leaveRunning: false })
  await expect(keeping).rejects.toThrow('too late')
  expect(await guestState(instance)).toMatchObject({ count: 2 })
  await engine.stop(instance)
})

timed('files alone are kept, and boot anew with several layers in one device', async () => {
  const upper = fixture.parts.uppers.take(256)
  const first = await engine.start(await fixture.plan(3, { memoryDir, upper }))
  await inShell(first, `echo alone > /alone; node -e ${OBSTRUCT}; node -e ${SYNC}`)
  await engine.capture(first, { memoryDir: undefined, leaveRunning: false })

  const tight = new (class extends QemuMonitor {
    override readonly maxDrives = 3
  })(fixture.qemuOptions)
  await tight.support()
  const layers = [fixture.parts.base, ...(await Promise.all(['a', 'b', 'c'].map(smallLayer)))]
  const changes = { upper, layers, hostname: 'again', limits: { ...fixture.limits, memoryMib: 192 } }
  const again = await fixture.engine({ monitors: [tight] }).start(await fixture.plan(4, changes))
  expect(await guestState(again)).toEqual({ count: 1, hostname: 'again' })
  expect(await inShell(again, 'cat /alone /a /b /c /same')).toBe('alone\na\nb\nc\nc')
  expect(await inShell(again, 'cat /etc/resolv.conf')).toBe('nameserver 169.254.0.22')
  await engine.stop(again)
})

timed('a machine outlives its engine object and is adopted by the next, under a new name', async () => {
  const plan = await fixture.plan(4, { memoryDir })
  const { initPid } = await engine.rename(await engine.start(plan), 'claimed')
  const next = fixture.engine()
  expect(await next.adopt({ ...plan, sandboxId: 'another', initPid: undefined })).toBeUndefined()
  const adopted = await next.adopt({ ...plan, sandboxId: 'claimed', initPid: undefined })
  expect(adopted?.initPid).toBe(initPid)
  expect(await guestState(adopted!)).toMatchObject({ count: 2 })
  await next.stop(adopted!)
  expect(await next.adopt({ ...plan, sandboxId: 'claimed', initPid })).toBeUndefined()
})

timed('a start that fails says why and leaves nothing', async () => {
  const plan = await fixture.plan(5)
  const before = await networkOf(plan.slot)
  const broken = fixture.engine({ monitors: [new QemuMonitor({ ...fixture.qemuOptions, path: '/no/qemu' })] })
  await expect(broken.start(plan)).rejects.toThrow(/sandbox5 did not start: .*\/no\/qemu/s)
  const empty = engine.start({ ...plan, memoryDir: fixture.memoryDir() })
  await expect(empty).rejects.toThrow(/sandbox5 did not start/)
  expect(readdirSync(join(fixture.parts.runDir, 'slots', '5'))).toEqual(['sys'])
  expect(await networkOf(plan.slot)).toBe(before)
  expect(fixture.parts.options.cgroups.cgroup('5').pids()).toEqual([])
})

async function smallLayer(name: string) {
  const tree = join(fixture.parts.dir, `layer-${name}`)
  mkdirSync(tree)
  for (const file of [name, 'same']) writeFileSync(join(tree, file), `${name}\n`)
  return await fixture.parts.layers.importDirectory(tree)
}
