import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type KeptSnapshot, KeptSnapshots } from './kept-snapshots.ts'
import { Kernel, partsOver } from './simulated-kernel.ts'

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

const limits = { cpuCount: 1, memoryMib: 128, diskMib: 64, pids: 64 }

const open = (): KeptSnapshots => {
  const { engines } = partsOver(new Kernel(), join(dir, 'journal'), async () => {})
  return new KeptSnapshots(join(dir, 'kept'), engines, store)
}

const snapshot = (id: string, sandboxId: string, createdAtMs: number): KeptSnapshot => ({
  version: 1,
  id,
  sandboxId,
  engine: 'container',
  isPause: true,
  layers: [],
  upper: { id: `u-${id}`, path: '', capMib: 1 },
  ofUpperId: 'u',
  limits,
  config: { envVars: {}, user: 'root', workdir: '/', startCmd: '', readyCmd: '', beforeCapture: [], limits },
  memory: undefined,
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
