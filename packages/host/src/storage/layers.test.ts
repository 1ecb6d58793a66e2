import {
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { releaseUserNamespace, userNamespaceFor } from '../linux/idmap.ts'
import { checked, libcFunction } from '../linux/libc.ts'
import { mountsUnder } from '../linux/mount-table.ts'
import { withFileSystemIds } from './file-system-ids.ts'
import { LayerStore } from './layers.ts'
import { leftovers } from './leak-check.ts'
import { type MountedRoot, mountRoot, unmountRoot } from './overlay.ts'
import { type Upper, UpperStore } from './uppers.ts'

const idBase = 0x6f00_0000
const dir = mkdtempSync(join(tmpdir(), 'layers-'))
const options = { layersDir: join(dir, 'layers'), mountsDir: join(dir, 'mounts') }
const layers = new LayerStore(options)
let uppers: UpperStore
let usernsFd: number
let agentLayerPath: string
let baseDigest: string

beforeAll(async () => {
  uppers = await UpperStore.open({
    file: join(dir, 'uppers.btrfs'),
    mountPoint: join(dir, 'uppers'),
    sizeMib: 1024,
  })
  usernsFd = await userNamespaceFor(idBase)
  agentLayerPath = layers.mount((await layers.importDirectory(agentTree())).digest)
  baseDigest = (await layers.importDirectory(baseTree())).digest
})

afterAll(async () => {
  await releaseUserNamespace(idBase)
  layers.unmountAll()
  await uppers.close()
  const left = await leftovers(dir)
  rmSync(dir, { recursive: true, force: true })
  expect(left).toEqual([])
})

function agentTree(): string {
  const tree = join(dir, 'agent')
  mkdirSync(join(tree, '.e2b', 'bin'), { recursive: true })
  writeFileSync(join(tree, '.e2b', 'bin', 'init'), 'agent')
  return tree
}

function baseTree(): string {
  const tree = join(dir, 'base')
  for (const path of ['etc', 'home/user', 'opt/app/lib', 'opt/full', '.e2b/bin'])
    mkdirSync(join(tree, path), { recursive: true })
  writeFileSync(join(tree, 'etc', 'motd'), 'base')
  writeFileSync(join(tree, 'etc', 'gone'), 'base')
  writeFileSync(join(tree, 'opt', 'app', 'lib', 'code'), 'code')
  writeFileSync(join(tree, 'opt', 'full', 'old'), 'old')
  writeFileSync(join(tree, '.e2b', 'bin', 'init'), 'of the image')
  writeFileSync(join(tree, 'home', 'user', 'mine'), 'mine')
  symlinkSync('../etc/motd', join(tree, 'opt', 'link'))
  chownSync(join(tree, 'home', 'user', 'mine'), 1000, 1000)
  utimesSync(join(tree, 'etc', 'motd'), 1_600_000_000.25, 1_600_000_000.25)
  return tree
}

function mounted(name: string, upper: Upper, layerPaths: readonly string[]): MountedRoot {
  return mountRoot({ layerPaths, agentLayerPath, upper, usernsFd, dir: join(dir, name) })
}

const setxattrCall = libcFunction('setxattr', 'int', ['str', 'str', 'str', 'size_t', 'int'])
const getxattrCall = libcFunction('getxattr', 'int', ['str', 'str', 'void *', 'size_t'])

function xattr(path: string, name: string): string {
  const value = Buffer.alloc(64)
  return value.toString('utf8', 0, checked(getxattrCall(path, name, value, value.length), 'getxattr', path))
}

/** Acts in a root as the guest's own root does. */
function asGuest<Result>(action: () => Result): Result {
  return withFileSystemIds(idBase, idBase, action)
}

test('a layer keeps owners, times and links of the tree', () => {
  const path = layers.mount(baseDigest)
  expect(statSync(join(path, 'home/user/mine')).uid).toBe(1000)
  expect(statSync(join(path, 'etc/motd')).mtimeMs).toBe(1_600_000_000_250)
  expect(readFileSync(join(path, 'opt/link'), 'utf8')).toBe('base')
  expect(() => writeFileSync(join(path, 'etc/motd'), '')).toThrow('EROFS')
})

test('a layer is mounted once, and another store object finds it mounted', () => {
  const path = layers.mount(baseDigest)
  expect(new LayerStore(options).mount(baseDigest)).toBe(path)
  expect(mountsUnder(path)).toHaveLength(1)
})

test('a text that is no digest never becomes a path', () => {
  expect(() => layers.mount('../../etc')).toThrow('not a layer digest')
  expect(() => layers.get('')).toThrow('not a layer digest')
})

test('ids in a root are those of its range, and are stored as the guest sees them', () => {
  const upper = uppers.take(64)
  const root = mounted('ids', upper, [layers.mount(baseDigest)])
  expect(statSync(join(root.path, 'home/user/mine')).uid).toBe(idBase + 1000)
  asGuest(() => writeFileSync(join(root.path, 'home/user/new'), 'x'))
  chownSync(join(root.path, 'home/user/new'), idBase + 1000, idBase + 1000)
  expect(statSync(join(upper.path, 'upper/home/user/new')).uid).toBe(1000)
  root.unmount()
  root.unmount()
  uppers.release(upper)
})

test('the agent layer lies above the image, and nothing but the root stays mounted', () => {
  const upper = uppers.take(64)
  const root = mounted('agent-top', upper, [layers.mount(baseDigest)])
  expect(readFileSync(join(root.path, '.e2b/bin/init'), 'utf8')).toBe('agent')
  expect(mountsUnder(join(dir, 'agent-top')).map((entry) => entry.target)).toEqual([root.path])
  unmountRoot(join(dir, 'agent-top'))
  expect(mountsUnder(join(dir, 'agent-top'))).toEqual([])
  uppers.release(upper)
})

test('the cap of the upper holds in the root', () => {
  const upper = uppers.take(16)
  const root = mounted('capped', upper, [layers.mount(baseDigest)])
  const mebibyte = Buffer.alloc(1024 * 1024)
  const fd = asGuest(() => openSync(join(root.path, 'large'), 'w'))
  const write = () => {
    for (let written = 0; written < 32; written++) writeSync(fd, mebibyte)
    fsyncSync(fd)
  }
  // btrfs answers EDQUOT, for which Node has no name.
  expect(write).toThrow(expect.objectContaining({ errno: -122 }))
  closeSync(fd)
  root.unmount()
  uppers.release(upper)
})

test('what a sandbox wrote, deleted, replaced and moved is the same when its upper has become a layer', async () => {
  const upper = uppers.take(64)
  const base = layers.mount(baseDigest)
  const root = mounted('first', upper, [base])
  asGuest(() => {
    rmSync(join(root.path, 'etc/gone'))
    rmSync(join(root.path, 'opt/full'), { recursive: true })
    mkdirSync(join(root.path, 'opt/full'))
    writeFileSync(join(root.path, 'opt/full/new'), 'new')
    renameSync(join(root.path, 'opt/app'), join(root.path, 'opt/moved'))
    checked(setxattrCall(join(root.path, 'opt/full/new'), 'user.note', 'kept', 4, 0), 'setxattr')
  })
  root.unmount()
  expect(lstatSync(join(upper.path, 'upper/etc/gone')).isCharacterDevice()).toBe(true)

  const layer = await layers.importUpper(upper)
  const second = uppers.take(64)
  const again = mounted('second', second, [base, layers.mount(layer.digest)])
  expect(readdirSync(join(again.path, 'etc'))).toEqual(['motd'])
  expect(readdirSync(join(again.path, 'opt/full'))).toEqual(['new'])
  expect(xattr(join(again.path, 'opt/full/new'), 'user.note')).toBe('kept')
  expect(readFileSync(join(again.path, 'opt/moved/lib/code'), 'utf8')).toBe('code')
  expect(existsSync(join(again.path, 'opt/app'))).toBe(false)
  again.unmount()
  uppers.release(upper)
  uppers.release(second)
})

test('a failed mount leaves nothing behind', () => {
  const upper = { id: 'none', path: join(dir, 'no-such-upper'), capMib: 1 }
  expect(() => mounted('failed', upper, [layers.mount(baseDigest)])).toThrow('ENOENT')
  expect(mountsUnder(join(dir, 'failed'))).toEqual([])
  expect(readdirSync(join(dir, 'failed'))).toEqual(['root'])
})

test('a layer whose bytes changed does not verify; garbage goes, also while mounted', async () => {
  const tree = join(dir, 'small')
  mkdirSync(tree)
  writeFileSync(join(tree, 'file'), 'x')
  const layer = await layers.importDirectory(tree)
  layers.mount(layer.digest)
  expect(await layers.verify(layer.digest)).toBe(true)
  truncateSync(layer.imagePath, layer.sizeBytes - 1)
  expect(await layers.verify(layer.digest)).toBe(false)
  const keep = new Set(layers.list().map((other) => other.digest))
  keep.delete(layer.digest)
  expect(await layers.collectGarbage(async () => keep)).toEqual([])
  expect(await layers.collectGarbage(async () => keep, { youngMs: 0 })).toEqual([layer.digest])
  expect(layers.get(layer.digest)).toBeUndefined()
  expect(layers.get(baseDigest)).toBeDefined()
})

test('a layer that comes into use while garbage is collected stays, also when the collector dies', async () => {
  const tree = join(dir, 'wanted')
  mkdirSync(tree)
  writeFileSync(join(tree, 'file'), 'wanted')
  const { digest } = await layers.importDirectory(tree)
  const others = layers
    .list()
    .map((layer) => layer.digest)
    .filter((other) => other !== digest)
  let asked = 0
  const needed = async () => new Set(++asked === 1 ? others : [...others, digest])
  expect(await layers.collectGarbage(needed, { youngMs: 0 })).toEqual([])
  expect(await layers.verify(digest)).toBe(true)
  asked = 0
  const dying = async () => {
    if (++asked === 2) throw new Error('killed')
    return new Set(others)
  }
  await expect(layers.collectGarbage(dying, { youngMs: 0 })).rejects.toThrow('killed')
  expect(layers.get(digest)).toBeUndefined()
  expect(await layers.collectGarbage(async () => new Set([...others, digest]))).toEqual([])
  expect(await layers.verify(digest)).toBe(true)
})
