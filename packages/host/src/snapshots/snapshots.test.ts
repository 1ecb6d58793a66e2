import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { plainConfig } from '../testing/plain-template.ts'
import { type SnapshotManifest, SnapshotStore } from './snapshots.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'snapshots-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

const manifest = (id: string): SnapshotManifest => ({
  version: 1,
  id,
  layers: ['l1'],
  config: plainConfig,
  createdAtMs: 1,
  agentVersion: '0',
})

async function capture(store: SnapshotStore, id: string, sizeBytes: number, hostClass = 'a'): Promise<void> {
  const draft = await store.draftMemory()
  writeFileSync(join(draft.dir, 'pages-1.img'), 'x')
  await store.publishMemory(id, hostClass, draft, { layers: ['l1', 'l2'], sizeBytes })
}

test('a snapshot is known once its manifest is published, to other daemons too', async () => {
  const store = new SnapshotStore(dir, () => ['a'], 'me')
  await capture(store, 's1', 10)
  await expect(store.manifest('s1')).rejects.toMatchObject({ kind: 'notFound' })
  expect(store.warmIds()).toEqual([])
  await store.publish(manifest('s1'))
  const other = new SnapshotStore(dir, () => ['a'], 'me')
  expect(await other.manifest('s1')).toEqual(manifest('s1'))
  const memory = await other.memory('s1', 'a')
  expect(memory).toMatchObject({ layers: ['l1', 'l2'], sizeBytes: 10 })
  expect(existsSync(join(memory!.dir, 'pages-1.img'))).toBe(true)
  expect(other.warmIds()).toEqual(['s1'])
})

test('memory of another host class is not used', async () => {
  const store = new SnapshotStore(dir, () => ['a'], 'me')
  await store.publish(manifest('s1'))
  await capture(store, 's1', 10)
  expect(await new SnapshotStore(dir, () => ['a', 'b'], 'me').memory('s1', 'b')).toBeUndefined()
})

test('of two captures of one snapshot the first stays, and no draft is left', async () => {
  const store = new SnapshotStore(dir, () => ['a'], 'me')
  await store.publish(manifest('s1'))
  await capture(store, 's1', 10)
  await capture(store, 's1', 20)
  expect((await new SnapshotStore(dir, () => ['a'], 'me').memory('s1', 'a'))?.sizeBytes).toBe(10)
  expect(readdirSync(join(dir, '.drafts', 'me'))).toEqual([])
})

test('what a killed daemon left unfinished goes: its own drafts at once, memory without a manifest in time', async () => {
  const other = await new SnapshotStore(dir, () => ['a'], 'other').draftMemory()
  const own = await new SnapshotStore(dir, () => ['a'], 'me').draftMemory()
  const store = new SnapshotStore(dir, () => ['a'], 'me')
  await capture(store, 'orphan', 10)
  await store.publish(manifest('s1'))
  await store.sweepUnfinished()
  expect([existsSync(own.dir), existsSync(other.dir), existsSync(join(dir, 'orphan'))]).toEqual([
    false,
    true,
    true,
  ])
  await store.sweepUnfinished(Date.now() + 2 * 60 * 60_000)
  expect(existsSync(join(dir, 'orphan'))).toBe(false)
  expect(store.ids()).toEqual(['s1'])
})

test('the least recently used memory goes first, what is in use stays, files remain', async () => {
  const store = new SnapshotStore(dir, () => ['a'], 'me')
  for (const id of ['s1', 's2', 's3']) {
    await store.publish(manifest(id))
    await capture(store, id, 100)
    await store.memory(id, 'a')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  await store.memory('s1', 'a')
  expect(await store.evict(150, new Set(['s2']))).toEqual(['s3', 's1'])
  expect(store.warmIds()).toEqual(['s2'])
  expect(await store.manifest('s3')).toBeDefined()
  expect(await store.memory('s3', 'a')).toBeUndefined()
})

test('an id that could leave the folder is no snapshot', async () => {
  const store = new SnapshotStore(dir, () => ['a'], 'me')
  await expect(store.manifest('../etc')).rejects.toMatchObject({ kind: 'notFound' })
  await expect(store.publish(manifest('../x'))).rejects.toThrow('no snapshot id')
})
