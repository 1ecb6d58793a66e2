import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { removeStaleBundles } from './microvm/drives.ts'
import { removeStaleImages } from './microvm/image/held-images.ts'
import { removeAbandoned } from './unfinished.ts'

const HOUR_MS = 3_600_000

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'unfinished-'))
  mkdirSync(join(dir, '.new-image'))
  writeFileSync(join(dir, '.new-image/vmlinux'), 'half')
  writeFileSync(join(dir, '.new-bundle'), 'half')
  for (const name of ['.new-image', '.new-bundle']) utimesSync(join(dir, name), 0, 0)
  writeFileSync(join(dir, '.new-other'), 'being written')
  writeFileSync(join(dir, 'whole'), 'whole')
})
afterEach(() => rmSync(dir, { recursive: true }))

test.each([
  ['programs', () => removeAbandoned(dir)],
  ['bundles of layers', () => removeStaleBundles(dir, () => true)],
  ['guest images', () => removeStaleImages(dir)],
])('%s that nobody finishes any more go, what others are making stays', (_, remove) => {
  remove()
  expect(readdirSync(dir).sort()).toEqual(['.new-other', 'whole'])
  removeAbandoned(dir, Date.now() + HOUR_MS + 1_000)
  expect(readdirSync(dir)).toEqual(['whole'])
})
