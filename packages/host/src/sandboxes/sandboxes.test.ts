import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { pino } from 'pino'
import { afterAll, expect, test } from 'vitest'
import { type CellParts, type CellPlan, openCell } from '../cells/cells.ts'
import { Journal } from '../cells/journal.ts'
import { sweepAtStart } from '../cells/sweep.ts'
import { HostError } from '../host-error.ts'
import { Keeper } from '../snapshots/keeper.ts'
import { KeptSnapshots } from '../snapshots/kept-snapshots.ts'
import type { StartRequest } from '../starting/start.ts'
import { plainConfig, plainLimits } from '../testing/plain-template.ts'
import { Kernel, partsOver, type Step } from '../testing/simulated-kernel.ts'
import type { SandboxEvent } from './events.ts'
import { Sandboxes } from './sandboxes.ts'

/**
 * The state machine and its recovery, simulated: a kernel that outlives daemons, and daemons whose every step may be
 * interleaved with any other or be the last before SIGKILL. The engine itself is exercised by the whole-system tests.
 */

const log = pino({ level: 'silent' })
const dirs: string[] = []
afterAll(() => {
  for (const dir of dirs) rmSync(dir, { recursive: true, force: true })
})

/** Timers never fire by themselves here: ends are an action of the simulation. */
const stoppedClock = { nowMs: () => 0, after: () => () => {} }

interface Daemon {
  sandboxes: Sandboxes
  kept: KeptSnapshots
}

function daemonOver(cells: CellParts, dir: string): Daemon {
  const kept = new KeptSnapshots(`${dir}-kept`, cells.engines, cells.uppers)
  const keeper = new Keeper({ kept, uppers: cells.uppers, freeBytes: () => 2 ** 40, log })
  const start = async (request: StartRequest, phases: Record<string, number>, signal: AbortSignal) => {
    const plan: CellPlan = {
      occupant: 'sandbox',
      engine: cells.engines.for(undefined),
      sandboxId: request.sandboxId,
      snapshotId: request.snapshotId,
      templateId: '',
      layers: [],
      limits: plainLimits,
      memoryDir: undefined,
      network: { internet: true },
      endAtMs: request.endAtMs,
      onEnd: 'kill',
      config: plainConfig,
      base: kept.get(request.snapshotId)?.upper,
      consumesSnapshot: request.consumesSnapshot ?? false,
    }
    const cell = await openCell(cells, plan, phases, signal)
    cell.markReady()
    if (request.consumesSnapshot) await kept.delete(request.snapshotId)
    return { cell, fromPool: false }
  }
  const keep: Keeper['keep'] = (id, cell, what) => keeper.keep(id, cell, what)
  const sandboxes = new Sandboxes({ start, keep, kept, log, clock: stoppedClock })
  return { sandboxes, kept }
}

const request = (sandboxId: string): StartRequest => ({
  sandboxId,
  snapshotId: 's',
  templateId: 't',
  limits: {},
  envVars: {},
  envdAccessToken: undefined,
  network: { internet: true },
  endAtMs: 1_000,
  onEnd: 'kill',
  skipPool: true,
})

const newDir = (): string => {
  const dir = mkdtempSync(join(tmpdir(), 'sandboxes-'))
  dirs.push(dir, `${dir}-kept`)
  return dir
}

const action = fc.record({
  kind: fc.constantFrom('start', 'start', 'kill', 'exit', 'setEnd', 'pause', 'pause', 'resume', 'snapshot'),
  id: fc.integer({ min: 0, max: 4 }),
})

/** One in which nothing is interleaved. */
function calmDaemon(kernel: Kernel): Sandboxes {
  const dir = newDir()
  return daemonOver(
    partsOver(kernel, dir, async () => {}),
    dir,
  ).sandboxes
}

/** Collects events without a reader's scheduling. */
function record(sandboxes: Sandboxes): SandboxEvent[] {
  const seen: SandboxEvent[] = []
  const publish = sandboxes.events.publish.bind(sandboxes.events)
  sandboxes.events.publish = (event) => {
    seen.push(event)
    publish(event)
  }
  return seen
}

let snapshots = 0

async function act({ sandboxes, kept }: Daemon, kernel: Kernel, kind: string, id: string): Promise<unknown> {
  if (kind === 'pause') return sandboxes.pause(id, { memory: true, needsAgent: false })
  if (kind === 'snapshot') return sandboxes.snapshot(id, `s${snapshots++}`, true)
  const pause = kept.pauseOf(id)
  if (kind === 'resume') {
    return pause && sandboxes.start({ ...request(id), snapshotId: pause.id, consumesSnapshot: true })
  }
  // The control plane starts no second sandbox under the id of a paused one.
  if (kind === 'start' && pause) return undefined
  if (kind === 'start') return sandboxes.start(request(id))
  if (kind === 'kill') return sandboxes.kill(id)
  if (kind === 'setEnd') return Promise.resolve().then(() => sandboxes.setEnd(id, 2_000, false))
  for (const { instance, exit } of kernel.instances.values()) {
    if (instance.sandboxId === id) exit({ status: 1, outOfMemory: false })
  }
  return Promise.resolve()
}

/** True while a read or write of this process is under way: how long it takes is the disk's to say. */
const isAtDisk = (): boolean => process.getActiveResourcesInfo().some((name) => name.startsWith('FSReq'))

/** Operating errors are answers; anything else is a defect. */
const expected = (error: unknown): void => {
  if (!(error instanceof HostError)) throw error
}

test('whatever is interleaved, closing leaves nothing and every start that was told ends once', async () => {
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.array(action, { maxLength: 25 }), async (scheduler, actions) => {
      const kernel = new Kernel()
      const dir = newDir()
      const cells = partsOver(kernel, dir, (label) => scheduler.schedule(Promise.resolve(), label))
      const daemon = daemonOver(cells, dir)
      const { sandboxes, kept } = daemon
      const seen = record(sandboxes)
      const pending: Promise<unknown>[] = []
      for (const { kind, id } of actions) {
        pending.push(act(daemon, kernel, kind, `i${id}`).catch(expected))
        if (scheduler.count() > 0) await scheduler.waitOne()
      }
      const closing = sandboxes.close(false)
      await scheduler.waitFor(Promise.all([...pending, closing]))
      expect(kernel.instances.size).toBe(0)
      expect([...kernel.uppers].sort()).toEqual([...kept.upperIds()].sort())
      expect([...kernel.slotsInUse]).toEqual([])
      expect(new Journal(dir, 'boot').read().entries).toEqual([])
      for (let id = 0; id <= 4; id++) {
        const kinds = seen.flatMap((event) => {
          if (event.kind === 'started' && event.sandbox.sandboxId === `i${id}`) return ['started']
          return event.kind === 'ended' && event.sandboxId === `i${id}` ? ['ended'] : []
        })
        for (const [at, kind] of kinds.entries()) expect(kind).toBe(at % 2 === 0 ? 'started' : 'ended')
        expect(kinds.length % 2).toBe(0)
      }
    }),
    { numRuns: 150 },
  )
})

test('after SIGKILL at any step the next daemon has exactly what was answered for, and nothing else exists', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.scheduler(),
      fc.array(action, { maxLength: 20 }),
      fc.integer({ min: 0, max: 60 }),
      async (scheduler, actions, lastStep) => {
        const kernel = new Kernel()
        const dir = newDir()
        let steps = 0
        const dies: Step = (label) =>
          steps++ >= lastStep ? new Promise(() => {}) : scheduler.schedule(Promise.resolve(), label)
        const first = daemonOver(partsOver(kernel, dir, dies), dir)
        const answered = new Set<string>()
        const asked = new Set<string>()
        for (const { kind, id } of actions) {
          const name = `i${id}`
          if (kind === 'kill' || kind === 'exit') asked.add(name)
          const isStart = kind === 'start' || kind === 'resume'
          act(first, kernel, kind, name).then((told) => isStart && told && answered.add(name), expected)
          if (scheduler.count() > 0) await scheduler.waitOne()
        }
        // What follows the last step belongs to it, also what reads and writes files.
        for (let idle = 0; idle < 3; idle++) {
          for (; scheduler.count() > 0; idle = 0) await scheduler.waitOne()
          await delay(4)
          if (isAtDisk()) idle = 0
        }

        const cells = partsOver(kernel, dir, async () => {})
        const content = cells.journal.read()
        const { sandboxes: second, kept } = daemonOver(cells, dir)
        const named = new Set([...content.entries.map((entry) => entry.upper.id), ...kept.upperIds()])
        // What slots and uppers do when they open: keep what the journal names.
        for (const id of kernel.uppers) if (!named.has(id)) kernel.uppers.delete(id)
        kernel.slotsInUse.clear()
        for (const entry of content.entries) kernel.slotsInUse.add(entry.slot.index)
        await sweepAtStart(
          { cells, kept, adopt: async (entry, cell) => second.adopt(entry, cell), log },
          content,
        )

        const listed = second
          .list()
          .map((view) => view.sandboxId)
          .sort()
        expect([...kernel.instances.values()].map(({ instance }) => instance.sandboxId).sort()).toEqual(
          listed,
        )
        expect(kernel.uppers.size).toBe(listed.length + kept.upperIds().size)
        const paused = kept.paused().map(({ sandboxId }) => sandboxId)
        const whole = [...listed, ...paused].sort()
        expect(new Set(whole).size).toBe(whole.length)
        expect(kernel.slotsInUse.size).toBe(listed.length)
        for (const id of answered) if (!asked.has(id)) expect(whole).toContain(id)
        for (const id of listed) expect([...answered]).toContain(id)
        await second.close(false)
        expect(kernel.uppers.size).toBe(kept.upperIds().size)
      },
    ),
    { numRuns: 150 },
  )
})

test('a kill during the start undoes it, and the start says why it failed', async () => {
  const kernel = new Kernel()
  const gate = Promise.withResolvers<void>()
  const dir = newDir()
  const { sandboxes } = daemonOver(
    partsOver(kernel, dir, (label) => (label === 'engine.started' ? gate.promise : Promise.resolve())),
    dir,
  )
  const starting = sandboxes.start(request('i1'))
  const killing = sandboxes.kill('i1')
  gate.resolve()
  await expect(starting).rejects.toThrow('killed while it was starting')
  await killing
  expect(kernel.instances.size + kernel.uppers.size + kernel.slotsInUse.size).toBe(0)
})

test('one that is killed when it is ready and before anybody heard of it is undone by the next daemon', async () => {
  const kernel = new Kernel()
  const dir = newDir()
  const cells = partsOver(kernel, dir, (label) =>
    label === 'engine.stop' ? new Promise(() => {}) : Promise.resolve(),
  )
  const { sandboxes } = daemonOver(cells, dir)
  const write = cells.journal.write.bind(cells.journal)
  const written: boolean[] = []
  cells.journal.write = (entry) => {
    write(entry)
    written.push(entry.isReady)
    if (entry.isReady) void sandboxes.kill('i1')
  }
  void sandboxes.start(request('i1'))
  await expect.poll(() => written.at(-2)).toBe(true)
  expect(cells.journal.read().entries).toMatchObject([{ sandboxId: 'i1', isReady: false }])
})

test('an id in use is refused, an unknown one is not found, a repeated stop is accepted', async () => {
  const sandboxes = calmDaemon(new Kernel())
  await sandboxes.start(request('i1'))
  await expect(sandboxes.start(request('i1'))).rejects.toMatchObject({ kind: 'exists' })
  await expect(sandboxes.kill('i2')).rejects.toMatchObject({ kind: 'notFound' })
  await sandboxes.kill('i1')
  await sandboxes.kill('i1')
})

test('the limit of sandboxes is named in the refusal', async () => {
  const sandboxes = calmDaemon(new Kernel())
  for (let at = 0; at < 6; at++) await sandboxes.start(request(`i${at}`))
  await expect(sandboxes.start(request('i6'))).rejects.toThrow('maximum of 6 sandboxes')
})

test('out of memory is told apart from an exit', async () => {
  const kernel = new Kernel()
  const sandboxes = calmDaemon(kernel)
  const seen = record(sandboxes)
  await sandboxes.start(request('i1'))
  for (const { exit } of kernel.instances.values()) exit({ status: -9, outOfMemory: true })
  await new Promise(setImmediate)
  await sandboxes.close(false)
  expect(seen.at(-1)).toMatchObject({ kind: 'ended', sandboxId: 'i1', reason: 'out_of_memory' })
})
