import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { StepCache } from '../builds/step-cache.ts'
import { mount, umount2 } from '../linux/mount.ts'
import { LayerStore } from '../storage/layers.ts'
import { plainConfig } from '../testing/plain-template.ts'
import { collectImages } from './image-collector.ts'
import { LayerReferences } from './layer-references.ts'
import { type SnapshotManifest, SnapshotStore } from './snapshots.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'images-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

const digestOf = (letter: string): string => letter.repeat(64)

/** An image whose bytes nobody reads. */
function plant(letter: string, ageMs: number): void {
  const path = join(dir, 'layers', `${digestOf(letter)}.erofs`)
  writeFileSync(path, '')
  age(path, ageMs)
}

function age(path: string, ageMs: number): void {
  const at = (Date.now() - ageMs) / 1000
  utimesSync(path, at, at)
}

const manifest = (id: string, letters: string): SnapshotManifest => ({
  version: 1,
  id,
  layers: [...letters].map(digestOf),
  config: plainConfig,
  createdAtMs: 0,
  agentVersion: '0',
})

function open(name: string, letters: string) {
  mkdirSync(join(dir, name), { recursive: true })
  const owner = { name, hostId: 'here', stateDir: join(dir, name) }
  return {
    imagesDir: dir,
    layers: new LayerStore({ layersDir: join(dir, 'layers'), mountsDir: join(dir, name, 'mounts') }),
    references: new LayerReferences(join(dir, 'references'), owner),
    snapshots: new SnapshotStore(join(dir, 'snapshots'), () => ['this-class'], name),
    steps: new StepCache(join(dir, 'build-steps')),
    ownDigests: () => new Set([...letters].map(digestOf)),
    agentLayers: () => [],
    startedFrom: (): readonly string[] => [],
    onSnapshotGone: async () => {},
    log: pino({ level: 'silent' }),
  }
}

test('what no snapshot, build step or instance needs goes; the rest and what is young stays', async () => {
  const own = open('own', 'a')
  open('other', 'b').references.claim([digestOf('b')])
  await own.snapshots.publish(manifest('template', 'c'))
  const draft = await own.snapshots.draftMemory()
  await own.snapshots.publishMemory('template', 'this-class', draft, {
    layers: ['c', 'd'].map(digestOf),
    sizeBytes: 1,
  })
  await own.steps.put(digestOf('1'), {
    layers: [digestOf('e')],
    context: { envVars: {}, user: 'root', workdir: '/' },
  })
  for (const letter of 'abcdef') plant(letter, 2 * HOUR_MS)
  plant('0', HOUR_MS / 2)
  await collectImages(own)
  expect(own.layers.list().map(({ digest }) => digest[0])).toEqual(['0', 'a', 'b', 'c', 'd', 'e'])
  // The other instance ends with its state: what it needed goes with it.
  rmSync(join(dir, 'other'), { recursive: true })
  await collectImages(own)
  expect(own.layers.get(digestOf('b'))).toBeUndefined()
})

test('memory of another class that nobody used for a week goes, and the layer that it alone named', async () => {
  const own = open('own', '')
  await own.snapshots.publish(manifest('template', 'a'))
  for (const hostClass of ['this-class', 'former', 'fresh']) {
    const draft = await own.snapshots.draftMemory()
    const letter = { 'this-class': 'b', former: 'c', fresh: 'd' }[hostClass]!
    await own.snapshots.publishMemory('template', hostClass, draft, {
      layers: [digestOf('a'), digestOf(letter)],
      sizeBytes: 1,
    })
  }
  const memory = (hostClass: string) => join(dir, 'snapshots', 'template', 'memory', hostClass, 'memory.json')
  age(memory('this-class'), 30 * DAY_MS)
  age(memory('former'), 8 * DAY_MS)
  age(memory('fresh'), 6 * DAY_MS)
  for (const letter of 'abcd') plant(letter, 2 * HOUR_MS)
  await collectImages(own)
  expect(['this-class', 'former', 'fresh'].map((name) => existsSync(memory(name)))).toEqual([
    true,
    false,
    true,
  ])
  expect(own.layers.list().map(({ digest }) => digest[0])).toEqual(['a', 'b', 'd'])
})

test('nothing is collected while it is not known what another instance needs', async () => {
  const own = open('own', '')
  writeFileSync(join(dir, 'references', 'cut.json'), '')
  plant('a', 2 * HOUR_MS)
  await expect(collectImages(own)).rejects.toThrow()
  expect(own.layers.get(digestOf('a'))).toBeDefined()
})

describe('snapshots of templates', () => {
  const plantSnapshot = async (own: ReturnType<typeof open>, id: string, letters: string, ageMs: number) => {
    await own.snapshots.publish(manifest(id, letters))
    age(join(dir, 'snapshots', id, 'manifest.json'), ageMs)
    for (const letter of letters) plant(letter, ageMs)
  }
  const layers = (own: ReturnType<typeof open>) => own.layers.list().map(({ digest }) => digest[0])
  const knowing = (own: ReturnType<typeof open>, published: string[], tagged: string[] = []) => ({
    ...own,
    neededSnapshots: async () => ({ published, own: tagged }),
  })

  test('that were replaced go with their layers and memory, unless anybody needs or has just used them', async () => {
    const own = open('own', '')
    const ids = { current: 'ab', replaced: 'ac', tagged: 'ad', runs: 'ae', others: 'af' }
    for (const [id, letters] of Object.entries(ids)) await plantSnapshot(own, id, letters, 8 * DAY_MS)
    await plantSnapshot(own, 'fresh', 'a0', 6 * DAY_MS)
    await plantSnapshot(own, 'used', 'a1', 8 * DAY_MS)
    for (const id of ['used', 'replaced']) {
      const draft = await own.snapshots.draftMemory()
      await own.snapshots.publishMemory(id, 'this-class', draft, { layers: [digestOf('a')], sizeBytes: 1 })
    }
    age(join(dir, 'snapshots', 'replaced', 'memory', 'this-class', 'memory.json'), 8 * DAY_MS)
    open('other', '').references.replace(new Set(), new Set(['others']))
    const gone: string[] = []
    await collectImages({
      ...knowing(own, ['current'], ['tagged', 'current']),
      startedFrom: () => ['runs'],
      onSnapshotGone: async (id) => void gone.push(id),
    })
    expect(gone).toEqual(['replaced'])
    expect(own.snapshots.ids().sort()).toEqual(['current', 'fresh', 'others', 'runs', 'tagged', 'used'])
    expect(layers(own)).toEqual(['0', '1', 'a', 'b', 'd', 'e', 'f'])
    await expect(own.snapshots.manifest('replaced')).rejects.toMatchObject({ kind: 'notFound' })
    // Its sandbox has ended since, and the other instance with its state.
    rmSync(join(dir, 'other'), { recursive: true })
    await collectImages(knowing(own, ['current'], ['tagged']))
    expect(own.snapshots.ids().sort()).toEqual(['current', 'fresh', 'tagged', 'used'])
  })

  test('stay where it is not known what can be started: here, or in an instance of an older version', async () => {
    const own = open('own', '')
    await plantSnapshot(own, 'replaced', 'a', 8 * DAY_MS)
    await collectImages(own)
    expect(own.snapshots.ids()).toEqual(['replaced'])
    const older = { name: 'older', hostId: 'elsewhere', stateDir: '/nowhere', digests: [] }
    writeFileSync(join(dir, 'references', 'older.json'), JSON.stringify(older))
    await collectImages(knowing(own, []))
    expect(own.snapshots.ids()).toEqual(['replaced'])
    rmSync(join(dir, 'references', 'older.json'))
    await collectImages(knowing(own, []))
    expect(own.snapshots.ids()).toEqual([])
  })

  test('that somebody has come to need meanwhile are put back whole', async () => {
    const own = open('own', '')
    await plantSnapshot(own, 'tagged', 'a', 8 * DAY_MS)
    let asked = 0
    const neededSnapshots = async () => ({ published: [], own: asked++ === 0 ? [] : ['tagged'] })
    await collectImages({ ...own, neededSnapshots })
    expect([asked, own.snapshots.ids(), layers(own)]).toEqual([2, ['tagged'], ['a']])
  })
})

test('a full disk keeps nothing from being collected, and nothing that is needed is', async () => {
  const own = open('own', 'ab')
  own.references.replace(own.ownDigests())
  const references = join(dir, 'references')
  cpSync(references, `${references}.before`, { recursive: true })
  mount('tmpfs', references, 'tmpfs', 0, 'size=64k')
  try {
    cpSync(`${references}.before`, references, { recursive: true })
    expect(() => writeFileSync(join(references, 'filler'), Buffer.alloc(2 ** 20))).toThrow('ENOSPC')
    // Not yet on the disk that it needs the third, no more that it needs the second.
    const now = { ...own, ownDigests: () => new Set(['a', 'c'].map(digestOf)) }
    for (const letter of 'abcd') plant(letter, 2 * HOUR_MS)
    await collectImages(now)
    expect(own.layers.list().map(({ digest }) => digest[0])).toEqual(['a', 'b', 'c'])
    rmSync(join(references, 'filler'))
    await collectImages(now)
    expect(own.layers.list().map(({ digest }) => digest[0])).toEqual(['a', 'c'])
  } finally {
    umount2(references)
  }
})
