import { appendFileSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { lastWords } from './machine-files.ts'

const dir = mkdtempSync(join(tmpdir(), 'machine-files-'))
const log = join(dir, 'log')
afterAll(() => rmSync(dir, { recursive: true }))

test('a machine that said nothing, or has no log, has no last words', () => {
  expect(lastWords(join(dir, 'none'))).toBe('')
  writeFileSync(log, '\n')
  expect(lastWords(log)).toBe('')
})

test('of a long log the end is told, also when the guest has written gigabytes', () => {
  writeFileSync(log, '')
  truncateSync(log, 8 * 2 ** 30)
  appendFileSync(log, `${'x'.repeat(5_000)}the end\n`)
  expect(lastWords(log)).toMatch(/^: x+the end$/)
  expect(lastWords(log).length).toBeLessThan(2_100)
})

test('of a kernel that gave up is told why, not only the end of its trace', () => {
  writeFileSync(log, `booted\nKernel panic - not syncing: no init\n${'  ? trace\n'.repeat(500)}`)
  expect(lastWords(log)).toMatch(/^: Kernel panic - not syncing: no init\n/)
})
