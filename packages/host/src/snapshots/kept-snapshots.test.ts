import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeEach, expect, test } from 'vitest'
import type { LayerSource } from '../cells/parts.ts'
import { Engines } from '../engines/engines.ts'
import { plainConfig, plainLimits } from '../testing/plain-template.ts'
import { Kernel, partsOver } from '../testing/simulated-kernel.ts'
import { type KeptSnapshot, KeptSnapshots } from './kept-snapshots.ts'

let dir: string
const uppers = new Set<string>()
const store = {
  has: ({ id }: { id: string }) => uppers.has(id),
  release: ({ id }: { id: string }) => void uppers.delete(id),
}
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'kept-'))
  uppers.clear()
})
afterEach(() => rmSync(dir, { recursive: true }))

const partsDir = mkdtempSync(join(tmpdir(), 'kept-parts-'))
afterAll(() => rmSync(partsDir, { recursive: true }))
const { engines } = partsOver(new Kernel(), partsDir, async () => {})

const open = (of = engines): KeptSnapshots => new KeptSnapshots(join(dir, 'kept'), of, store)

/** A machine with this agent and this kernel. */
const machineWith = (agent: string, kernel = 'linux'): Engines => {
  const engine = {
    ...engines.for(undefined),
    agentDigest: agent,
    hostClass: (of = agent) => `${kernel}-${of}`,
    restores: (memoryClass: string, of = agent) => memoryClass === `${kernel}-${of}`,
  }
  return new Engines([{ engine, report: engines.reports[0]!.report }])
}

const layersWith = (...digests: string[]): LayerSource => ({
  get: (digest) => (digests.includes(digest) ? { digest, imagePath: '', sizeBytes: 1 } : undefined),
  importDirectory: () => Promise.reject(new Error('nothing is imported here')),
  importUpper: () => Promise.reject(new Error('nothing is imported here')),
})

const snapshot = (
  id: string,
  sandboxId: string,
  createdAtMs: number,
  memory?: KeptSnapshot['memory'],
): KeptSnapshot => ({
  version: 1,
  id,
  sandboxId,
  engine: 'container',
  isPause: true,
  layers: [],
  upper: { id: `u-${id}`, path: '', capMib: 1 },
  ofUpperId: 'u',
  limits: plainLimits,
  config: plainConfig,
  memory,
  agentUnresponsive: false,
  createdAtMs,
})

async function publish(kept: KeptSnapshots, id: string, sandboxId: string, createdAtMs = 1): Promise<void> {
  const draft = await kept.draft(id)
  writeFileSync(join(draft.memoryDir, 'pages-1.img'), 'pages')
  uppers.add(`u-${id}`)
  await kept.publish(draft, snapshot(id, sandboxId, createdAtMs))
}

test('what was published is found again by the next daemon, what was drafted is not', async () => {
  const kept = open()
  await publish(kept, 's1', 'one')
  await kept.draft('s2')
  const again = open()
  expect(again.paused().map(({ snapshotId }) => snapshotId)).toEqual(['s1'])
  expect(existsSync(join(again.memoryDir('s1'), 'pages-1.img'))).toBe(true)
  await again.sweepUnfinished()
  expect(readdirSync(join(dir, 'kept', '.drafts'))).toEqual([])
})

test('one of which a loss of power left half is no snapshot, and keeps nothing from starting', async () => {
  const kept = open()
  for (const id of ['whole', 'cut', 'empty', 'bare']) await publish(kept, id, id)
  writeFileSync(join(dir, 'kept', 'cut', 'manifest.json'), '{"version": 1, "id": "cu')
  writeFileSync(join(dir, 'kept', 'empty', 'manifest.json'), '')
  // Its deletion had begun: the disk of the uppers knew of it, that of the manifests not yet.
  uppers.delete('u-bare')
  const again = open()
  expect(again.paused().map(({ snapshotId }) => snapshotId)).toEqual(['whole'])
  await again.sweepUnfinished()
  expect(readdirSync(join(dir, 'kept')).sort()).toEqual(['.drafts', 'whole'])
  expect(readdirSync(join(dir, 'kept', '.drafts'))).toEqual([])
})

test('of several pauses of a sandbox the newest counts', async () => {
  const kept = open()
  await publish(kept, 'old', 'one', 1)
  await publish(kept, 'new', 'one', 2)
  expect(kept.pauseOf('one')?.id).toBe('new')
})

test('memory of an agent that was upgraded since is restored with the agent that it was captured with', () => {
  const captured = { hostClass: 'linux-old', agentDigest: 'old', sizeBytes: 1 }
  const kept = snapshot('s', 'one', 1, captured)
  const layers = layersWith('old', 'new')
  expect(open(machineWith('old')).ready(kept, true, layers).agentLayer).toBeUndefined()
  expect(open(machineWith('new')).ready(kept, true, layers)).toMatchObject({
    memoryDir: expect.any(String),
    agentLayer: { digest: 'old' },
  })
  // Booted, it has the new one.
  expect(open(machineWith('new')).ready(kept, false, layers)).toMatchObject({
    memoryDir: undefined,
    agentLayer: undefined,
  })
})

test('memory that cannot be restored here is refused, its files are not', () => {
  const captured = { hostClass: 'linux-old', agentDigest: 'old', sizeBytes: 1 }
  const kept = snapshot('s', 'one', 1, captured)
  const layers = layersWith('old', 'new')
  const otherKernel = open(machineWith('old', 'linux2'))
  expect(() => otherKernel.ready(kept, true, layers)).toThrow('does not fit this host')
  expect(otherKernel.ready(kept, false, layers).memoryDir).toBeUndefined()
  expect(() => open(machineWith('new')).ready(kept, true, layersWith('new'))).toThrow(
    'does not fit this host',
  )
  const unnamed = snapshot('s', 'one', 1, { hostClass: 'linux-old', sizeBytes: 1 })
  expect(() => open(machineWith('new')).ready(unnamed, true, layers)).toThrow('does not fit this host')
  expect(open(machineWith('old')).ready(unnamed, true, layers).memoryDir).toBeDefined()
})

test('of two under one name one is refused, and the other is whole', async () => {
  const kept = open()
  const outcomes = await Promise.allSettled(['one', 'two'].map((of) => publish(kept, 's1', of)))
  expect(outcomes.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
  const [known] = kept.paused()
  expect(open().paused()).toEqual([known])
  expect(existsSync(join(kept.memoryDir('s1'), 'pages-1.img'))).toBe(true)
})

test('one whose name cannot be moved away is deleted where it lies', async () => {
  const kept = open()
  await publish(kept, 's1', 'one')
  // What is no directory takes no name, as a full disk takes none.
  rmSync(join(dir, 'kept', '.drafts'), { recursive: true })
  writeFileSync(join(dir, 'kept', '.drafts'), '')
  await kept.delete('s1')
  expect(existsSync(join(dir, 'kept', 's1'))).toBe(false)
  expect(uppers.has('u-s1')).toBe(false)
})

test('one that cannot be read at the moment is not thrown away', async () => {
  await publish(open(), 's1', 'one')
  const path = join(dir, 'kept', 's1', 'manifest.json')
  renameSync(path, `${path}.moved`)
  // Reading a directory fails as a bad block or a lack of descriptors does.
  mkdirSync(path)
  expect(() => open()).toThrow('EISDIR')
  rmSync(path, { recursive: true })
  renameSync(`${path}.moved`, path)
  expect(open().paused().length).toBe(1)
})
