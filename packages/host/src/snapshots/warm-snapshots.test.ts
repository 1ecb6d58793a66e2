import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { LayerSource } from '../cells/parts.ts'
import type { Engine, EngineName } from '../engines/engine.ts'
import { Engines } from '../engines/engines.ts'
import { plainConfig } from '../testing/plain-template.ts'
import { type SnapshotManifest, SnapshotStore } from './snapshots.ts'
import { WarmSnapshots } from './warm-snapshots.ts'

/** Which engine a start of a template's snapshot gets, and whose memory; a capture only says that it was made. */

const engine = (name: EngineName): Engine =>
  ({ name, canCapture: true, hostClass: () => `${name}-class` }) as unknown as Engine
const usable = { usable: true, version: '', detail: '', remedy: '' }
const manifest: SnapshotManifest = {
  version: 1,
  id: 's',
  layers: [],
  config: { ...plainConfig, isolation: 'container' },
  createdAtMs: 0,
  agentVersion: '0',
}

let dir: string
let captures: string[]
let store: SnapshotStore
beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'warm-'))
  captures = []
  store = new SnapshotStore(dir, () => ['gvisor-class', 'container-class'], 'test')
  await store.publish(manifest)
})
afterEach(() => rmSync(dir, { recursive: true }))

function warm(): WarmSnapshots {
  return new WarmSnapshots({
    store,
    layers: { get: () => undefined } as unknown as LayerSource,
    engines: new Engines([
      { engine: engine('gvisor'), report: usable },
      { engine: engine('container'), report: usable },
    ]),
    async captureMemory({ id }, { name, hostClass }) {
      captures.push(name)
      const draft = await store.draftMemory()
      await store.publishMemory(id, hostClass(), draft, { layers: [], sizeBytes: 1 })
    },
  })
}

test('a start gets the engine it asks for, else that of the build, and each engine captures once', async () => {
  const snapshots = warm()
  expect((await snapshots.ready('s')).engine.name).toBe('container')
  const asked = await Promise.all([snapshots.ready('s', 'gvisor'), snapshots.ready('s', 'auto')])
  expect(asked.map((ready) => ready.engine.name)).toEqual(['gvisor', 'gvisor'])
  expect((await snapshots.ready('s')).engine.name).toBe('container')
  expect(captures).toEqual(['container', 'gvisor'])
  await expect(async () => snapshots.ready('s', 'microvm')).rejects.toMatchObject({ kind: 'unsupported' })
})

test('memory that fails on one engine is made anew for that one alone', async () => {
  const snapshots = warm()
  for (const name of ['container', 'gvisor'] as const) await snapshots.ready('s', name)
  const { engine: failing } = await snapshots.ready('s', 'gvisor')
  for (let time = 0; time < 3; time++) await snapshots.failed('s', failing)
  await snapshots.ready('s', 'gvisor')
  await snapshots.ready('s', 'container')
  expect(captures).toEqual(['container', 'gvisor', 'gvisor'])
})

test('what is started again and again is not what was used longest ago', async () => {
  await store.publish({ ...manifest, id: 's2' })
  const snapshots = warm()
  await snapshots.ready('s')
  await snapshots.ready('s2')
  await new Promise((resolve) => setTimeout(resolve, 5))
  await snapshots.ready('s')
  expect(await store.evict(1, new Set())).toEqual(['s2'])
})

test('memory that another instance has dropped is made again', async () => {
  const snapshots = warm()
  const before = await snapshots.ready('s')
  await new SnapshotStore(dir, () => ['container-class'], 'other').dropMemory('s', 'container-class')
  snapshots.vanished('s', before.engine)
  expect(existsSync((await snapshots.ready('s')).memoryDir!)).toBe(true)
  expect(captures).toEqual(['container', 'container'])
})
