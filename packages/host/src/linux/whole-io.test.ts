import { mkdtempSync, rmSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { mount, unmountIfMounted } from './mount.ts'
import { readWhole, writeWhole } from './whole-io.ts'

test('what does not fit is no success, and what is not there is no zeros', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'whole-'))
  onTestFinished(() => {
    unmountIfMounted(dir)
    rmSync(dir, { recursive: true })
  })
  mount('tmpfs', dir, 'tmpfs', 0, 'size=64k')
  await using file = await open(join(dir, 'file'), 'w+')
  const bytes = Buffer.alloc(48 * 1024, 'x')
  await writeWhole(file, bytes, 0)
  const found = Buffer.alloc(bytes.length)
  await readWhole(file, found, 0)
  expect(found.equals(bytes)).toBe(true)
  // The kernel writes what there is room for, and says so by the number alone.
  await expect(writeWhole(file, bytes, bytes.length)).rejects.toThrow('ENOSPC')
  await expect(readWhole(file, Buffer.alloc(2 * bytes.length), 0)).rejects.toThrow('ended')
})
