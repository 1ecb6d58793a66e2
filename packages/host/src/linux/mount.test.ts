import { closeSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { idmappedClone, releaseUserNamespace, userNamespaceFor } from './idmap.ts'
import { errorCode } from './libc.ts'
import { bindMount, mount, mountNew, umount2, unmountIfMounted } from './mount.ts'
import { mountsUnder, parseMountTable, unmountTree } from './mount-table.ts'

const base = 0x71000000
let dir: string

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'mount test-'))
  for (const name of ['a', 'b', 'c']) mkdirSync(join(dir, name))
})
afterEach(() => {
  unmountTree(dir)
  rmSync(dir, { recursive: true })
})

function thrown(action: () => void): unknown {
  try {
    action()
  } catch (error) {
    return error
  }
  return undefined
}

test('a failed mount names errno, call and path', () => {
  const error = thrown(() => mount('none', join(dir, 'missing'), 'tmpfs'))
  expect(error).toMatchObject({ code: 'ENOENT', syscall: 'mount', path: join(dir, 'missing') })
})

test('a new mount appears in the table under its decoded path and goes away', () => {
  const target = join(dir, 'a')
  mountNew(
    'tmpfs',
    [
      ['size', '1m'],
      ['mode', '0700'],
    ],
    target,
  )
  expect(mountsUnder(dir)).toMatchObject([{ target, fileSystem: 'tmpfs', root: '/' }])
  umount2(target)
  expect(mountsUnder(dir)).toEqual([])
  expect(unmountIfMounted(target)).toBe(false)
})

test('a refused option says which one', () => {
  expect(thrown(() => mountNew('tmpfs', [['no_such_option', '1']], join(dir, 'a')))).toMatchObject({
    code: 'EINVAL',
    message: expect.stringContaining('no_such_option'),
  })
})

test('a read-only bind refuses writes while its source takes them', () => {
  bindMount(join(dir, 'a'), join(dir, 'b'), { readOnly: true })
  writeFileSync(join(dir, 'a', 'file'), 'x')
  expect(readFileSync(join(dir, 'b', 'file'), 'utf8')).toBe('x')
  expect(errorCode(thrown(() => writeFileSync(join(dir, 'b', 'file'), 'y')))).toBe('EROFS')
})

test('unmountTree takes stacked and nested mounts and is idempotent', () => {
  mountNew('tmpfs', [], join(dir, 'a'))
  mountNew('tmpfs', [], join(dir, 'a'))
  mkdirSync(join(dir, 'a', 'inner'))
  mountNew('tmpfs', [], join(dir, 'a', 'inner'))
  expect(mountsUnder(dir)).toHaveLength(3)
  unmountTree(dir)
  expect(mountsUnder(dir)).toEqual([])
  expect(unmountTree(dir)).toBe(0)
})

test('an idmapped clone shows ids of the slot range and stores them 0-based', async () => {
  mountNew('tmpfs', [], join(dir, 'a'))
  writeFileSync(join(dir, 'a', 'root-file'), '')
  const userns = await userNamespaceFor(base)
  expect(await userNamespaceFor(base)).toBe(userns)
  idmappedClone(join(dir, 'a'), join(dir, 'b'), userns)
  idmappedClone(join(dir, 'a'), join(dir, 'c'), userns, { readOnly: true })
  expect(statSync(join(dir, 'b', 'root-file')).uid).toBe(base)
  expect(errorCode(thrown(() => writeFileSync(join(dir, 'c', 'x'), '')))).toBe('EROFS')
  await releaseUserNamespace(base)
  expect(errorCode(thrown(() => closeSync(userns)))).toBe('EBADF')
})

test('mountinfo octal escapes are decoded', () => {
  const [entry] = parseMountTable(
    '36 35 98:0 / /mnt\\040x\\134y rw,noatime - ext3 /dev/root rw,errors=continue\n',
  )
  expect(entry).toMatchObject({ target: '/mnt x\\y', fileSystem: 'ext3', options: ['rw', 'noatime'] })
  const [shared] = parseMountTable('36 35 98:0 / /m rw shared:1 master:2 - tmpfs none rw\n')
  expect(shared).toMatchObject({ target: '/m', fileSystem: 'tmpfs' })
})
