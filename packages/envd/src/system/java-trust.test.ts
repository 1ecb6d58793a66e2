import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { trustInJava } from './java-trust.ts'

const der = Buffer.from('30030101ff', 'hex')
let rootDir: string
let path: string

beforeEach(() => {
  rootDir = mkdtempSync(join(tmpdir(), 'java-trust-'))
  mkdirSync(join(rootDir, 'etc/ssl/certs/java'), { recursive: true })
  path = join(rootDir, 'etc/ssl/certs/java/cacerts')
})
afterEach(() => rmSync(rootDir, { recursive: true }))

/** An empty store as `keytool` writes it. */
function emptyStore(password: string): Buffer {
  const content = Buffer.from('feedfeed0000000200000000', 'hex')
  const digest = createHash('sha1')
    .update(Buffer.from(password, 'utf16le').swap16())
    .update('Mighty Aphrodite')
    .update(content)
  return Buffer.concat([content, digest.digest()])
}

test('the certificate is added once, and what it signs off is as Java checks it', () => {
  writeFileSync(path, emptyStore('changeit'))
  trustInJava(rootDir, der)
  const once = readFileSync(path)
  expect(once.readUInt32BE(8)).toBe(1)
  expect(once.includes(der)).toBe(true)
  trustInJava(rootDir, der)
  expect(readFileSync(path).equals(once)).toBe(true)
  trustInJava(rootDir, Buffer.from('30030101fe', 'hex'))
  expect(readFileSync(path).readUInt32BE(8)).toBe(2)
})

test.each([
  ['with another password', emptyStore('secret')],
  ['of another format', Buffer.from(`3082${'00'.repeat(60)}`, 'hex')],
  ['that is empty', Buffer.alloc(0)],
])('a store %s is left alone', (_what, store) => {
  writeFileSync(path, store)
  trustInJava(rootDir, der)
  expect(readFileSync(path).equals(store)).toBe(true)
})
