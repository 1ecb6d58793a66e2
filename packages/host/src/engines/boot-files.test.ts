import { lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { prepareBootFiles } from './boot-files.ts'

const dir = mkdtempSync(join(tmpdir(), 'boot-files-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

function newUpper(name: string): { path: string; root: string } {
  const path = join(dir, name)
  mkdirSync(join(path, 'upper'), { recursive: true })
  return { path, root: join(path, 'upper') }
}

test('links that a guest left are not followed', () => {
  const outside = join(dir, 'outside')
  mkdirSync(join(outside, 'e2b'), { recursive: true })
  writeFileSync(join(outside, 'resolv.conf'), 'of the machine')
  const { path, root } = newUpper('links')
  for (const name of ['run', 'etc', 'tmp', 'dev']) symlinkSync(outside, join(root, name))
  prepareBootFiles(path, [])
  expect(readFileSync(join(outside, 'resolv.conf'), 'utf8')).toBe('of the machine')
  for (const name of ['run', 'etc', 'tmp', 'dev', 'run/e2b'])
    expect(lstatSync(join(root, name)).isDirectory()).toBe(true)
  expect(readFileSync(join(root, 'etc/resolv.conf'), 'utf8')).toContain('nameserver')
})

test('files in place of what is written are replaced, links among them', () => {
  const { path, root } = newUpper('files')
  const secret = join(dir, 'secret')
  writeFileSync(secret, 'secret')
  mkdirSync(join(root, 'etc'))
  symlinkSync(secret, join(root, 'etc/resolv.conf'))
  prepareBootFiles(path, [])
  expect(readFileSync(secret, 'utf8')).toBe('secret')
  expect(lstatSync(join(root, 'etc/resolv.conf')).isFile()).toBe(true)
})

test('a second boot has a new id, an empty run directory and the files it had', () => {
  const { path, root } = newUpper('twice')
  prepareBootFiles(path, [])
  const id = readFileSync(join(root, 'run/e2b/boot_id'), 'utf8')
  writeFileSync(join(root, 'run/lock-of-last-boot'), '')
  writeFileSync(join(root, 'tmp/kept'), 'kept')
  prepareBootFiles(path, [])
  expect(readFileSync(join(root, 'run/e2b/boot_id'), 'utf8')).not.toBe(id)
  expect(lstatSync(join(root, 'run/lock-of-last-boot'), { throwIfNoEntry: false })).toBeUndefined()
  expect(readFileSync(join(root, 'tmp/kept'), 'utf8')).toBe('kept')
})
