import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { trySharedLock } from '../../../linux/file-lock.ts'
import { removeStaleImages } from './held-images.ts'

const HOUR_MS = 3_600_000

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'guest-images-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

const digestOf = (letter: string): string => letter.repeat(64)

function plant(letter: string, ageMs: number): void {
  const root = join(dir, digestOf(letter))
  mkdirSync(root)
  for (const name of ['vmlinux', 'initramfs.cpio']) writeFileSync(join(root, name), letter)
  const at = (Date.now() - ageMs) / 1000
  utimesSync(root, at, at)
}

test('a guest image that was replaced goes once the daemon that began with it has ended', () => {
  plant('a', 2 * HOUR_MS)
  plant('b', 2 * HOUR_MS)
  plant('c', HOUR_MS / 2)
  plant('d', 2 * HOUR_MS)
  writeFileSync(join(dir, 'current.json'), JSON.stringify({ digest: digestOf('d') }))
  writeFileSync(join(dir, 'open-read-only.so'), '')
  const daemon = openSync(join(dir, digestOf('b'), 'initramfs.cpio'), 'r')
  expect(trySharedLock(daemon)).toBe(true)
  expect(removeStaleImages(dir)).toEqual([digestOf('a')])
  const left = [...'abcd'].map((letter) => existsSync(join(dir, digestOf(letter))))
  expect(left).toEqual([false, true, true, true])
  closeSync(daemon)
  expect(removeStaleImages(dir)).toEqual([digestOf('b')])
})
