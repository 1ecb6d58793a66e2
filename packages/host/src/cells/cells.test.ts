import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { NetworkPolicy } from '../network/policy.ts'
import { captureMemory } from '../snapshots/capture.ts'
import { KeptSnapshots } from '../snapshots/kept-snapshots.ts'
import { SnapshotStore } from '../snapshots/snapshots.ts'
import { plainConfig, plainLimits } from '../testing/plain-template.ts'
import { Kernel, partsOver, type Step } from '../testing/simulated-kernel.ts'
import { type Cell, type CellParts, type CellPlan, openCell } from './cells.ts'
import type { JournalEntry } from './journal.ts'
import { sweepAtStart } from './sweep.ts'

/** What becomes of slots, uppers and entries when a step fails or two calls cross, over the simulated kernel. */

const log = pino({ level: 'silent' })

let dir: string
let kernel: Kernel
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'cells-'))
  kernel = new Kernel()
})
afterEach(() => rmSync(dir, { recursive: true }))

const parts = (step: Step = async () => {}): CellParts => partsOver(kernel, join(dir, 'journal'), step)

const plan = (cells: CellParts): CellPlan => ({
  occupant: 'sandbox',
  engine: cells.engines.for(undefined),
  sandboxId: 'i1',
  snapshotId: 's',
  templateId: 't',
  layers: [],
  limits: plainLimits,
  memoryDir: undefined,
  network: { internet: true },
  endAtMs: 1,
  onEnd: 'kill',
  config: plainConfig,
})

const open = (cells: CellParts): Promise<Cell> => openCell(cells, plan(cells), {})

/** Fails each step of this name. */
const failing =
  (label: string): Step =>
  async (at) => {
    if (at === label) throw new Error(`${label} fails`)
  }

test('what does not stop at first is stopped at the second attempt', async () => {
  let attempts = 0
  const cells = parts(async (label) => {
    if (label === 'engine.stop' && ++attempts === 1) throw new Error('init is still there')
  })
  const cell = await open(cells)
  await expect(cell.stop()).rejects.toThrow('still there')
  await cell.release()
  expect([kernel.instances.size, kernel.slotsInUse.size, kernel.uppers.size]).toEqual([0, 0, 0])
  expect(cells.admission.count).toBe(0)
})

test('what never stops is given to the owner of its slot, who kills it', async () => {
  const cells = parts(failing('engine.stop'))
  const given: unknown[] = []
  cells.slots.release = ({ index }, how) => void given.push([index, how])
  const cell = await open(cells)
  await expect(cell.release()).rejects.toThrow('engine.stop')
  expect(given).toEqual([[cell.slot.index, { isCleared: false }]])
  expect(cells.journal.read().entries).toEqual([])
  expect(cells.admission.count).toBe(0)
})

test('of two changes of the network that cross the later one holds, in the kernel as in the journal', async () => {
  const cells = parts()
  const applied: NetworkPolicy[] = []
  const first = Promise.withResolvers<void>()
  cells.slots.replacePolicy = async (_slot, policy) => {
    if (applied.length === 0 && policy.denyOut) await first.promise
    applied.push(policy)
  }
  const cell = await open(cells)
  const slow = cell.applyNetwork({ internet: true, denyOut: ['1.1.1.1'] })
  const fast = cell.applyNetwork({ internet: false })
  await new Promise((resolve) => setTimeout(resolve, 10))
  first.resolve()
  await Promise.all([slow, fast])
  expect(applied.at(-1)).toEqual({ internet: false })
  expect(cells.journal.read().entries[0]?.network).toEqual({ internet: false })
})

test.each(['engine.adopt', 'engine.thaw'])(
  'one whose adoption fails (%s) does not keep its slot',
  async (at) => {
    const before = parts()
    ;(await open(before)).markReady()
    const cells = parts(failing(at))
    cells.slots.release = ({ index }) => void kernel.slotsInUse.delete(index)
    const kept = new KeptSnapshots(join(dir, 'kept'), cells.engines, cells.uppers)
    const swept = await sweepAtStart({ cells, kept, adopt: async () => {}, log }, cells.journal.read())
    expect(swept).toEqual({ adopted: 0, removed: 1 })
    expect(kernel.slotsInUse.size).toBe(0)
    expect(cells.journal.read().entries).toEqual([])
    expect(cells.admission.count).toBe(0)
  },
)

test('a slot whose engine is gone from this machine is given back uncleared', async () => {
  ;(await open(parts())).markReady()
  const cells = parts()
  cells.engines.named = () => undefined
  const given: unknown[] = []
  cells.slots.release = ({ index }, how) => void given.push([index, how])
  const kept = new KeptSnapshots(join(dir, 'kept'), cells.engines, cells.uppers)
  await sweepAtStart({ cells, kept, adopt: async () => {}, log }, cells.journal.read())
  expect(given).toEqual([[0, { isCleared: false }]])
})

test('one that was resumed goes on though what it was resumed from cannot be deleted', async () => {
  const before = parts()
  const cell = await openCell(before, { ...plan(before), consumesSnapshot: true }, {})
  cell.markReady()
  const cells = parts()
  const kept = new KeptSnapshots(join(dir, 'kept'), cells.engines, cells.uppers)
  kept.delete = () => Promise.reject(new Error('EROFS'))
  const adopted: string[] = []
  const adopt = async ({ sandboxId }: JournalEntry): Promise<void> => void adopted.push(sandboxId)
  await sweepAtStart({ cells, kept, adopt, log }, cells.journal.read())
  expect(adopted).toEqual(['i1'])
  expect(kernel.instances.size).toBe(1)
})

test('a capture for which there is no room on the disk leaves nothing running', async () => {
  const cells = parts()
  const store = new SnapshotStore(join(dir, 'snapshots'), () => ['class'], 'me')
  rmSync(join(dir, 'snapshots', '.drafts'), { recursive: true })
  writeFileSync(join(dir, 'snapshots', '.drafts'), '')
  const layers = {
    get: () => undefined,
    importDirectory: () => Promise.reject(new Error('nothing is imported here')),
    importUpper: () => Promise.reject(new Error('nothing is imported here')),
  }
  const facts = { version: 1, id: 's', layers: [], createdAtMs: 1, agentVersion: '0' } as const
  const manifest = { ...facts, config: plainConfig }
  const capturing = captureMemory({ cells, layers, store }, manifest, cells.engines.for(undefined))
  await expect(capturing).rejects.toThrow('ENOTDIR')
  expect([kernel.instances.size, kernel.slotsInUse.size, cells.admission.count]).toEqual([0, 0, 0])
  expect(existsSync(join(dir, 'snapshots', 's'))).toBe(false)
})
