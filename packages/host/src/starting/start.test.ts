import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Admission } from '../cells/admission.ts'
import type { CellParts } from '../cells/cells.ts'
import { Journal } from '../cells/journal.ts'
import type { LayerSource } from '../cells/parts.ts'
import type { Engine, Instance } from '../engines/engine.ts'
import { Engines } from '../engines/engines.ts'
import { mount, unmountIfMounted } from '../linux/mount.ts'
import { KeptSnapshots } from '../snapshots/kept-snapshots.ts'
import type { WarmSnapshots } from '../snapshots/warm-snapshots.ts'
import { plainEngine, usable } from '../testing/plain-engine.ts'
import { plainConfig, plainLimits } from '../testing/plain-template.ts'
import { Foreground } from './foreground.ts'
import { Pool } from './pool.ts'
import { openPooled, Starter, type StartRequest } from './start.ts'

/** The create path over real sockets and a real journal; the engine only says that something runs. */

const template = {
  id: 's',
  config: { ...plainConfig, envVars: { FROM_TEMPLATE: '1', BOTH: 'template' } },
  limits: plainLimits,
  layers: [],
}
/** Not the agent's own: something may listen on that everywhere. */
const agentPort = 31_984
const log = pino({ level: 'silent' })

/** Small enough to fill; pages of 4 KiB. */
const JOURNAL_OPTIONS = 'size=64k,mode=0700'

let dir: string
let servers: Server[]
/** Bodies of /init by address, and what the next ones are answered with. */
let inits: { address: string; body: Record<string, unknown> }[]
let answer: (address: string) => number
let running: Set<number>
let onStarted: () => void
let freeSlots: number[]
/** Starts that spoke against the memory of the template. */
let failures: number
let snapshot: typeof template & { memoryDir: string }
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'start-'))
  mkdirSync(join(dir, 'journal'))
  mount('tmpfs', join(dir, 'journal'), 'tmpfs', 0, JOURNAL_OPTIONS)
  servers = []
  inits = []
  answer = () => 204
  running = new Set()
  onStarted = () => {}
  failures = 0
  freeSlots = [0, 1, 2]
  snapshot = { ...template, memoryDir: join(dir, 'memory') }
  mkdirSync(snapshot.memoryDir)
})
afterEach(() => {
  for (const server of servers) server.close().closeAllConnections()
  unmountIfMounted(join(dir, 'journal'))
  rmSync(dir, { recursive: true })
})

/** Leaves not a byte on the disk of the journal. */
function fillJournalDisk(): void {
  expect(() => writeFileSync(join(dir, 'journal', 'filler'), Buffer.alloc(2 ** 20))).toThrow('ENOSPC')
}

const addressOf = (index: number): string => `127.81.9.${index + 1}`

async function agentAt(address: string): Promise<void> {
  const server = createServer(async (incoming, outgoing) => {
    let text = ''
    for await (const chunk of incoming) text += String(chunk)
    inits.push({ address, body: JSON.parse(text) })
    outgoing.writeHead(answer(address)).end()
  })
  servers.push(server)
  server.listen(agentPort, address)
  await once(server, 'listening')
}

function cellParts(): CellParts {
  const engine: Engine = {
    ...plainEngine,
    async start({ sandboxId, slot, upper }): Promise<Instance> {
      await agentAt(slot.address)
      running.add(slot.index)
      onStarted()
      return { sandboxId, slot, upper, initPid: 1, exited: new Promise(() => {}) }
    },
    capture: async () => ({ sizeBytes: 0 }),
    freeze: async () => {},
    thaw: async () => {},
    stop: async ({ slot }) => void running.delete(slot.index),
    layOutWritten: async () => {},
    adopt: async () => undefined,
    usage: async () => ({ cpuUsec: 0, memoryBytes: 0, memoryCacheBytes: 0, pids: 0, oomKills: 0 }),
  }
  const memory = { totalMib: 10_000, availableMib: 10_000 }
  const room = { maxSandboxes: 2, memoryOvercommit: 1, memoryReserveMib: 1 }
  return {
    admission: new Admission(room, () => memory),
    engines: new Engines([{ engine, report: usable }]),
    journal: new Journal(join(dir, 'journal'), 'boot'),
    slots: {
      async claim() {
        const index = freeSlots.shift()!
        return { index, netnsPath: '', address: addressOf(index), uidBase: 0, cgroupPaths: [], sysfsPath: '' }
      },
      setPolicy: () => {},
      replacePolicy: async () => {},
      release: () => {},
    },
    uppers: {
      assertRoom: () => {},
      take: (capMib) => ({ id: 'u', path: dir, capMib }),
      clone: async (base, capMib) => ({ ...base, id: 'copy', capMib }),
      snapshot: async (upper) => upper,
      nameCopy: (upper) => upper,
      has: () => true,
      sync: async () => {},
      recorded: () => {},
      usageBytes: () => 0,
      release: () => {},
    },
    nowMs: () => 1,
    agentPort,
  }
}

function starterOver(cells: CellParts): { starter: Starter; pool: Pool; kept: KeptSnapshots } {
  const foreground = new Foreground(5)
  const ready = { ...snapshot, engine: cells.engines.for(undefined) }
  const open = () => openPooled(cells, ready, 'pooled')
  const pool = new Pool(
    { min: 0, max: 1, idleMs: 1_000 },
    { open, foreground, isMemoryTight: () => false, log },
  )
  const snapshots = {
    ready: () => ready,
    restored: () => {},
    failed: async () => void failures++,
    vanished: () => void mkdirSync(snapshot.memoryDir),
  } as unknown as WarmSnapshots
  const kept = new KeptSnapshots(join(dir, 'kept'), cells.engines, cells.uppers)
  const layers = { get: () => undefined } as unknown as LayerSource
  return { starter: new Starter({ cells, kept, layers, snapshots, pool, foreground, log }), pool, kept }
}

const request = (sandboxId: string): StartRequest => ({
  sandboxId,
  snapshotId: 's',
  templateId: 't',
  limits: {},
  envVars: { BOTH: 'request' },
  envdAccessToken: 'secret',
  network: { internet: true },
  endAtMs: 1_000,
  onEnd: 'kill',
  skipPool: false,
})
const signal = new AbortController().signal

test('a clone is told who it is, what the request says wins, and no secret reaches the journal', async () => {
  const cells = cellParts()
  const phases = {}
  await starterOver(cells).starter.start(request('i1'), phases, signal)
  expect(inits[0]?.body).toMatchObject({
    sandboxId: 'i1',
    hostname: 'i1',
    accessToken: 'secret',
    defaultUser: 'user',
    envVars: { FROM_TEMPLATE: '1', BOTH: 'request', E2B_SANDBOX: 'true', E2B_SANDBOX_ID: 'i1' },
  })
  expect(Object.keys(phases)).toEqual(['snapshot', 'slot', 'upper', 'journal', 'engine', 'init'])
  const [entry] = cells.journal.read().entries
  expect(entry).toMatchObject({ sandboxId: 'i1', isReady: true, occupant: 'sandbox' })
  expect(JSON.stringify(entry)).not.toContain('secret')
})

test('two clones share no identity', async () => {
  const { starter } = starterOver(cellParts())
  await starter.start({ ...request('i1'), skipPool: true }, {}, signal)
  await starter.start({ ...request('i2'), skipPool: true }, {}, signal)
  for (const field of ['machineId', 'bootId', 'generation', 'reseed', 'hostname']) {
    expect(inits[0]?.body[field]).toBeTruthy()
    expect(inits[0]?.body[field]).not.toBe(inits[1]?.body[field])
  }
})

test('a pooled one becomes the sandbox in its journal entry and in its agent', async () => {
  const cells = cellParts()
  const { starter, pool } = starterOver(cells)
  await starter.start(request('i1'), {}, signal)
  await expect.poll(() => pool.size).toBe(1)
  const { fromPool, cell } = await starter.start(request('i2'), {}, signal)
  expect(fromPool).toBe(true)
  expect(inits.at(-1)).toMatchObject({ address: cell.address, body: { sandboxId: 'i2' } })
  const entries = cells.journal.read().entries.map(({ sandboxId, occupant }) => [sandboxId, occupant])
  expect(entries).toContainEqual(['i2', 'sandbox'])
  expect(entries).not.toContainEqual(['pooled', 'pooled'])
})

test('a pooled one that does not wake is dropped and the caller gets a fresh one', async () => {
  const { starter, pool } = starterOver(cellParts())
  await starter.start(request('i1'), {}, signal)
  await expect.poll(() => pool.size).toBe(1)
  const broken = addressOf(1)
  answer = (address) => (address === broken ? 500 : 204)
  const { fromPool, cell } = await starter.start(request('i2'), {}, signal)
  expect(fromPool).toBe(false)
  expect(cell.address).not.toBe(broken)
  expect(running.has(1)).toBe(false)
})

test('a create that finds the machine full takes the room of a pooled one', async () => {
  const { starter, pool } = starterOver(cellParts())
  await starter.start(request('i1'), {}, signal)
  await expect.poll(() => pool.size).toBe(1)
  await starter.start({ ...request('i2'), skipPool: true }, {}, signal)
  expect(running).toEqual(new Set([0, 2]))
  await expect(starter.start({ ...request('i3'), skipPool: true }, {}, signal)).rejects.toMatchObject({
    kind: 'noRoom',
  })
})

test('an agent that refuses leaves nothing', async () => {
  const cells = cellParts()
  answer = () => 401
  await expect(starterOver(cells).starter.start(request('i1'), {}, signal)).rejects.toThrow('401')
  expect(running.size).toBe(0)
  expect(cells.journal.read().entries).toEqual([])
  expect(cells.admission.count).toBe(0)
})

test.each(['as its engine has started', 'as its agent has answered'])(
  'a disk that is full %s leaves nothing of the sandbox, and says so',
  async (when) => {
    const cells = cellParts()
    if (when.includes('engine')) onStarted = fillJournalDisk
    else {
      answer = () => {
        fillJournalDisk()
        return 204
      }
    }
    await expect(starterOver(cells).starter.start(request('i1'), {}, signal)).rejects.toMatchObject({
      kind: 'noRoom',
      message: expect.stringContaining('is full'),
    })
    expect(running.size).toBe(0)
    expect(cells.journal.read()).toEqual({ entries: [], stale: ['filler'] })
    expect(cells.admission.count).toBe(0)
  },
)

test('a resume whose snapshot cannot be deleted is a resume all the same', async () => {
  const cells = cellParts()
  const { starter, kept } = starterOver(cells)
  const draft = await kept.draft('p1')
  const upper = { id: 'u0', path: dir, capMib: 1 }
  const names = { id: 'p1', sandboxId: 'i1', engine: 'container', isPause: true, ofUpperId: 'u1' } as const
  const state = { layers: [], upper, limits: plainLimits, config: plainConfig, memory: undefined }
  await kept.publish(draft, { version: 1, ...names, ...state, agentUnresponsive: false, createdAtMs: 1 })
  // A mount cannot be renamed, nor can it be removed.
  mount('tmpfs', join(dir, 'kept', 'p1'), 'tmpfs')
  const resume = { ...request('i1'), snapshotId: 'p1', consumesSnapshot: true }
  try {
    const { cell } = await starter.start(resume, {}, signal)
    expect(running.has(cell.slot.index)).toBe(true)
  } finally {
    unmountIfMounted(join(dir, 'kept', 'p1'))
  }
})

test.each([
  ['EMFILE: too many open files, open', 'EMFILE', 0],
  ['criu: fork failed: Resource temporarily unavailable', undefined, 0],
  ['criu: the pages are torn', undefined, 1],
])(
  'a start that fails by %s speaks against the memory of its template or not',
  async (message, code, times) => {
    onStarted = () => {
      throw new Error('sandbox i1 did not start', { cause: Object.assign(new Error(message), { code }) })
    }
    await expect(starterOver(cellParts()).starter.start(request('i1'), {}, signal)).rejects.toThrow('start')
    expect(failures).toBe(times)
  },
)

test('memory that is dropped while a start is on its way is looked for again', async () => {
  let starts = 0
  onStarted = () => {
    if (++starts > 1) return
    rmSync(snapshot.memoryDir, { recursive: true })
    throw new Error('no images')
  }
  const { cell } = await starterOver(cellParts()).starter.start(request('i1'), {}, signal)
  expect([starts, running.has(cell.slot.index)]).toEqual([2, true])
})
