import { chmodSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { closedDirectory } from './probe.ts'

const dir = mkdtempSync(join(tmpdir(), 'closed-'))

afterAll(() => rmSync(dir, { recursive: true }))

test('finds the directory that keeps sandboxes from theirs', () => {
  const runDir = join(dir, 'state/run')
  mkdirSync(runDir, { recursive: true })
  expect(closedDirectory(runDir)).toBe(dir)
  chmodSync(dir, 0o711)
  expect(closedDirectory(runDir)).toBeUndefined()
  chmodSync(runDir, 0o700)
  expect(closedDirectory(runDir)).toBe(runDir)
})
