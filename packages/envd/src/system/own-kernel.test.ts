import { randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { reseedKernel, setClock, syncFiles } from './own-kernel.ts'

test('a clock that is right is left alone', () => {
  expect(setClock(Date.now())).toBe(false)
})

test('seeds and syncs are taken by any kernel', () => {
  reseedKernel(randomBytes(64))
  syncFiles()
})
