import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { mount, umount2 } from '../../../linux/mount.ts'
import { UpperStore } from '../../../storage/uppers.ts'
import { type ListedFile, listTree } from './tree-listing.ts'
import {
  buildTreeWriter,
  extentBytes,
  type RecordWords,
  ROOT,
  recordBytes,
  sourceOf,
  streamBytes,
  treeBytes,
  UP,
} from './tree-writer.ts'
import { TREE_LIMITS, type TreeLimits, unpackTree } from './unpack-tree.ts'

const dir = mkdtempSync(join(tmpdir(), 'written-'))
let uppers: UpperStore
let places: string
let written: (tree: string) => Buffer

beforeAll(async () => {
  uppers = await UpperStore.open({ file: join(dir, 'file'), mountPoint: join(dir, 'uppers'), sizeMib: 512 })
  // Where builds are unpacked.
  places = uppers.take(400).path
  written = await buildTreeWriter(dir)
})

afterAll(async () => {
  await uppers.close()
  rmSync(dir, { recursive: true, force: true })
})

let count = 0
/** A place with a file beside it that nothing may touch. */
function place(): { tree: string; beside: () => unknown[] } {
  const outside = join(places, `place${count++}`)
  const tree = join(outside, 'tree')
  mkdirSync(tree, { recursive: true })
  writeFileSync(join(outside, 'victim'), 'untouched', { mode: 0o600 })
  const beside = (): unknown[] => [
    readdirSync(outside).sort(),
    readFileSync(join(outside, 'victim'), 'utf8'),
    (({ mode, uid, nlink }) => [mode & 0o7777, uid, nlink])(statSync(join(outside, 'victim'))),
  ]
  return { tree, beside }
}
const UNTOUCHED = [['tree', 'victim'], 'untouched', [0o600, 0, 1]]

async function unpacked(
  stream: Buffer,
  limits: TreeLimits = TREE_LIMITS,
  pieceBytes?: number,
): Promise<string> {
  const { tree, beside } = place()
  try {
    await unpackTree(sourceOf(stream, pieceBytes), tree, limits)
  } finally {
    expect(beside()).toEqual(UNTOUCHED)
  }
  return tree
}

const fileAt = (tree: string, path: string): ListedFile | undefined =>
  listTree(tree).find((file) => file.path === path)

test('a tree that overlay wrote comes out of the stream as it went in', async () => {
  const { lower, upper, root } = overlay('made')
  execFileSync('/bin/bash', ['-ec', CHANGES], { cwd: root })
  umount2(root)
  const tree = await unpacked(written(upper), TREE_LIMITS, 777)
  const own = /^trusted\.overlay\.(?!opaque|redirect)/
  const comparable = (files: ListedFile[]): unknown[] =>
    files.map(({ inode: _, attributes, ...file }) => ({
      ...file,
      attributes: attributes.filter((one) => !own.test(one)),
    }))
  expect(comparable(listTree(tree))).toEqual(comparable(listTree(upper)))
  expect(fileAt(tree, 'lib')?.attributes).toContain('trusted.overlay.opaque=y')
  expect(fileAt(tree, 'moved')?.attributes).toContain('trusted.overlay.redirect=dir')
  expect(fileAt(tree, 'one')?.attributes.map((one) => one.split('=')[0])).toEqual([
    'security.capability',
    'user.note',
  ])
  expect(fileAt(tree, 'gone')?.facts).toMatch(/^20[0-7]{3,4} 0 0 /)
  expect(statSync(join(tree, 'sparse')).blocks).toBeLessThan(100)
  expect(fileAt(tree, 'one')?.inode).toBe(fileAt(tree, 'deep/two')?.inode)
  // Mounted again, it is what overlay showed.
  const merged = join(places, 'merged')
  mkdirSync(merged)
  mount('overlay', merged, 'overlay', 0, `lowerdir=${tree}:${lower},redirect_dir=on`)
  expect(readdirSync(join(merged, 'lib'))).toEqual(['new'])
  expect(readdirSync(merged)).not.toContain('gone')
  expect(readFileSync(join(merged, 'moved/inside'), 'utf8')).toBe('inside')
  umount2(merged)
})

/** What a build may do to a lower tree. */
const CHANGES = `
echo text > one; chown 1000:1001 one; chmod 4751 one; touch -d '2001-02-03 04:05:06.789012345' one
mkdir -p deep/er; ln one deep/two; chown 7:8 deep; chmod 2775 deep
python3 - <<'PROGRAM'
import os
os.setxattr('one', 'user.note', b'hello')
os.setxattr('one', 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))
os.setxattr('deep', 'user.x', bytes(range(256)))
os.setxattr('deep', 'trusted.own', b'')
PROGRAM
printf 'x%.0s' {1..100000} > deep/er/large
ln -s ../one deep/link; chown -h 5:6 deep/link; touch -hd 2011-11-11 deep/link
ln -s "$(printf 'a%.0s' {1..300})" long; mkfifo fifo; mkdir -m 1777 empty
rm gone; rm -r lib; mkdir lib; echo new > lib/new; mv dir moved
truncate -s 3G sparse; printf tail | dd of=sparse bs=1 seek=2147483648 conv=notrunc status=none
printf '\\377\\376' > "$(printf 'odd\\377\\nname')"
touch -d 1960-01-01 deep/er
`

function overlay(name: string): { lower: string; upper: string; root: string } {
  const [lower, upper, work, root] = ['lower', 'upper', 'work', 'root'].map((one) =>
    join(places, name, one),
  ) as [string, string, string, string]
  for (const path of [lower, upper, work, root]) mkdirSync(path, { recursive: true })
  for (const path of ['lib', 'dir']) mkdirSync(join(lower, path))
  writeFileSync(join(lower, 'gone'), 'gone')
  writeFileSync(join(lower, 'lib/old'), 'old')
  writeFileSync(join(lower, 'dir/inside'), 'inside')
  mount(
    'overlay',
    root,
    'overlay',
    0,
    `lowerdir=${lower},upperdir=${upper},workdir=${work},redirect_dir=on,index=off`,
  )
  return { lower, upper, root }
}

test('the writer says why there is no tree', async () => {
  await expect(unpacked(written(join(dir, 'missing')))).rejects.toThrow('No such file or directory')
  let deep = join(dir, 'deepest')
  for (let at = 0; at < 260; at++) deep = join(deep, 'd')
  mkdirSync(deep, { recursive: true })
  await expect(unpacked(written(join(dir, 'deepest')))).rejects.toThrow('too deep')
  await expect(unpacked(Buffer.alloc(4096))).rejects.toThrow('there is no tree')
  await expect(unpacked(Buffer.from('E2BFAIL1\x1b[2Jno'))).rejects.toThrow()
})

const file = (name: string, more: Partial<RecordWords> = {}): Buffer =>
  Buffer.concat([recordBytes({ kind: 'F', name, ...more }), extentBytes()])
const directory = (name: string): RecordWords => ({ kind: 'D', name, mode: 0o755 })
const symlink = (name: string, target: string): Buffer =>
  Buffer.concat([recordBytes({ kind: 'L', name, size: target.length }), Buffer.from(target)])

test.each<[string, Buffer, string]>([
  ['a name that goes up', treeBytes(1, file('..')), 'no name'],
  ['the directory itself', treeBytes(1, file('.')), 'no name'],
  ['a path', treeBytes(1, file('../victim')), 'no name'],
  ['an absolute path', treeBytes(1, file('/etc/passwd')), 'no name'],
  ['a name with a zero', treeBytes(1, file('a\0b')), 'no name'],
  ['no name', treeBytes(1, file('')), 'no name'],
  ['a name that is too long', treeBytes(1, file('x'.repeat(256))), '256 bytes'],
  ['a directory through a link', treeBytes(2, symlink('out', '..'), directory('out'), UP), 'EEXIST'],
  ['a file through a link', treeBytes(2, symlink('out', '../victim'), file('out')), 'EEXIST'],
  ['a file twice', treeBytes(2, file('a'), file('a')), 'EEXIST'],
  ['a directory twice', treeBytes(2, directory('a'), UP, directory('a'), UP), 'EEXIST'],
  ['a link to nowhere', treeBytes(1, symlink('a', '')), 'nowhere'],
  ['a link that is too long', treeBytes(1, { kind: 'L', name: 'a', size: 2 ** 40 }), 'where 4095'],
  ['a disk', treeBytes(1, { kind: 'N', name: 'a', mode: 0o060600, device: [8, 0] }), 'a device'],
  ['memory', treeBytes(1, { kind: 'N', name: 'a', mode: 0o020666, device: [1, 1] }), 'a device'],
  ['a disk 0:0', treeBytes(1, { kind: 'N', name: 'a', mode: 0o060600 }), 'a device'],
  ['a directory as a node', treeBytes(1, { kind: 'N', name: 'a', mode: 0o040755 }), 'a device'],
  ['a hard link to nothing', treeBytes(1, { kind: 'H', name: 'a', size: 7 }), 'to nothing'],
  ['a hard link to the root', treeBytes(1, { kind: 'H', name: 'a', size: 0 }), 'to nothing'],
  ['a hard link to itself', treeBytes(1, { kind: 'H', name: 'a', size: 1, isLinked: true }), 'to nothing'],
  [
    'a hard link to a directory',
    treeBytes(2, { ...directory('a'), isLinked: true }, UP, { kind: 'H', name: 'b', size: 1 }),
    'to nothing',
  ],
  ['up and out', streamBytes(ROOT, UP, UP), 'outside'],
  ['a file outside', streamBytes(ROOT, UP, file('a')), 'outside'],
  ['a second root', streamBytes(ROOT, UP, ROOT), 'outside'],
  ['a file as the root', streamBytes(file('')), 'begin with its root'],
  ['a root with a name', streamBytes(directory('a')), 'begin with its root'],
  ['a root within', treeBytes(1, ROOT, UP), 'no name'],
  ['an end in the middle', streamBytes(ROOT, directory('a'), { kind: 'E', size: 2 }), 'whole'],
  ['an end that counts wrong', streamBytes(ROOT, file('a'), UP, { kind: 'E', size: 3 }), 'whole'],
  ['no end', streamBytes(ROOT, file('a'), UP), 'in the middle'],
  ['an unknown kind', treeBytes(0, { kind: 'X' }), 'kind 88'],
  [
    'data before its offset',
    treeBytes(
      1,
      recordBytes({ kind: 'F', name: 'a', size: 9 }),
      extentBytes(4, 'abc'),
      extentBytes(2, 'abc'),
    ),
    'outside of it',
  ],
  [
    'data beyond the file',
    treeBytes(1, recordBytes({ kind: 'F', name: 'a', size: 2 }), extentBytes(1, 'abc')),
    'outside of it',
  ],
  [
    'an offset without end',
    treeBytes(1, recordBytes({ kind: 'F', name: 'a', size: 2 }), extentBytes(2n ** 64n - 1n, 'a')),
    'too large',
  ],
  [
    'data that is not there',
    streamBytes(ROOT, recordBytes({ kind: 'F', name: 'a', size: 2 ** 30 }), extentBytes(0, 'a', 2 ** 30)),
    'in the middle',
  ],
  ['a file of all bytes there are', treeBytes(1, file('a', { size: 2n ** 64n - 1n })), 'too large'],
  [
    'files that are too large together',
    treeBytes(2, file('a', { size: 2 ** 39 }), file('b', { size: 2 ** 40 })),
    'together',
  ],
  ['an owner that is none', treeBytes(1, file('a', { uid: 0xffffffff })), 'owner'],
  ['a time that is none', treeBytes(1, file('a', { nanoseconds: 1e9 })), 'time'],
  ['attributes without end', treeBytes(1, file('a', { attributesLength: 0xffffffff })), 'where 65536'],
  [
    'an attribute cut off',
    treeBytes(1, file('a', { attributes: [['user.x', 'y']], attributesLength: 9 })),
    'attribute',
  ],
])('%s is refused', async (_what, stream, reason) => {
  await expect(unpacked(stream)).rejects.toThrow(reason)
})

test('numbers have bounds', async () => {
  const limits = { ...TREE_LIMITS, entries: 3, depth: 2, linkedFiles: 1 }
  await unpacked(treeBytes(2, file('a'), file('b')), limits)
  await expect(unpacked(treeBytes(3, file('a'), file('b'), file('c')), limits)).rejects.toThrow('3 files')
  const deep = treeBytes(3, directory('a'), directory('b'), directory('c'), UP, UP, UP)
  await expect(unpacked(deep, { ...limits, entries: 9 })).rejects.toThrow('2 directories deep')
  const linked = treeBytes(2, file('a', { isLinked: true }), file('b', { isLinked: true }))
  await expect(unpacked(linked, limits)).rejects.toThrow('several names')
  const long = Array.from({ length: 20 }, () => directory('x'.repeat(255)))
  await expect(unpacked(treeBytes(20, ...long, ...long.map(() => UP)))).rejects.toThrow('path is too long')
})

test('what this machine would act upon is no attribute of a layer', async () => {
  const attributes = [
    ['user.kept', 'a'],
    ['trusted.kept', 'a'],
    ['security.selinux', 'unconfined'],
    ['security.ima', 'x'],
    ['btrfs.compression', 'zlib'],
    ['trusted.overlay.opaque', 'y'],
    ['trusted.overlay.metacopy', ''],
    ['trusted.overlay.origin', 'x'],
    ['trusted.overlay.overlay.opaque', 'y'],
    ['trusted.overlay.whiteout', ''],
  ] as const
  const moved = (name: string, to: string): Buffer[] => [
    recordBytes({ ...directory(name), attributes: [['trusted.overlay.redirect', to]] }),
    recordBytes(UP),
  ]
  const tree = await unpacked(
    treeBytes(
      6,
      recordBytes({ ...directory('d'), attributes }),
      recordBytes(UP),
      file('f', { attributes }),
      ...moved('good', '/a/b'),
      ...moved('up', '/a/../../b'),
      ...moved('path', 'a/b'),
      ...moved('root', '/'),
    ),
  )
  expect(
    listTree(tree)
      .slice(1)
      .map(({ path, attributes }) => [path, ...attributes]),
  ).toEqual([
    ['d', 'trusted.kept=a', 'trusted.overlay.opaque=y', 'trusted.overlay.overlay.opaque=y', 'user.kept=a'],
    ['f', 'trusted.kept=a', 'trusted.overlay.overlay.opaque=y', 'trusted.overlay.whiteout=', 'user.kept=a'],
    ['good', 'trusted.overlay.redirect=/a/b'],
    ['path'],
    ['root'],
    ['up'],
  ])
})

/** Records in any order with fields near the edges of what is allowed. */
const anyRecord: fc.Arbitrary<Buffer> = fc
  .record({
    kind: fc.constantFrom('D', 'D', 'U', 'F', 'F', 'L', 'N', 'H', 'E'),
    name: fc.constantFrom('a', 'b', 'c', 'tree', 'victim', '..', '.', '../victim', '/', ''),
    isLinked: fc.boolean(),
    mode: fc.constantFrom(0, 0o644, 0o4777, 0o020000, 0o060000, 0o010644, 0o140777),
    uid: fc.constantFrom(0, 1000, 0xfffffffe, 0xffffffff),
    size: fc.constantFrom(0, 1, 2, 3, 9, 2 ** 33),
    attributes: fc.constantFrom(
      [],
      [['user.a', 'b']],
      [['trusted.overlay.redirect', '/../..']],
    ) as fc.Arbitrary<[string, string][]>,
    tail: fc.constantFrom('', '..', '../victim', '../../..', extentBytes().toString('latin1'), 'x'),
  })
  .map(({ tail, ...words }) => Buffer.concat([recordBytes(words), Buffer.from(tail, 'latin1')]))

test('whatever the stream says, nothing outside is touched, and no descriptor stays open', async () => {
  const open = (): number => readdirSync('/proc/self/fd').length
  let accepted = 0
  await fc.assert(
    fc.asyncProperty(fc.array(anyRecord, { maxLength: 12 }), async (records) => {
      const before = open()
      const stream = streamBytes(ROOT, ...records, UP, { kind: 'E', size: records.length + 1 })
      await unpacked(stream).then(
        () => accepted++,
        () => {},
      )
      expect(open()).toBe(before)
    }),
    { numRuns: 600 },
  )
  expect(accepted).toBeGreaterThan(0)
})

test('bytes flipped in a good stream never reach outside', async () => {
  const tree = join(dir, 'good')
  mkdirSync(join(tree, 'a/b'), { recursive: true })
  writeFileSync(join(tree, 'a/file'), 'content')
  linkSync(join(tree, 'a/file'), join(tree, 'a/b/same'))
  symlinkSync('../..', join(tree, 'a/up'))
  chmodSync(join(tree, 'a'), 0o1777)
  chownSync(join(tree, 'a/b'), 3, 4)
  truncateSync(join(tree, 'a/file'), 5_000)
  const good = written(tree)
  const length = good.lastIndexOf('E') + 48
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      async (flips) => {
        const stream = Buffer.from(good)
        for (const [at, value] of flips) stream[at] = value
        await unpacked(stream).catch(() => {})
      },
    ),
    { numRuns: 200 },
  )
})
