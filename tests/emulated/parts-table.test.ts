import { expect, test } from 'vitest'
import { partsTable, sum } from './parts-table.ts'

const result = (engine: string, part: string, passed: number, failed: number, seconds: number) => ({
  engine,
  part,
  passed,
  failed,
  seconds,
})

const results = [
  result('gvisor', 'open', 2, 0, 30.25),
  result('gvisor', 'life', 9, 1, 70),
  result('microvm/qemu', 'open', 2, 0, 60),
  result('microvm/qemu', 'limits', 1, 0, 9.5),
]

test('a row for each engine, a column for each part that any of them has', () => {
  expect(partsTable(results).split('\n')).toEqual([
    '              open      life            limits    all',
    'gvisor        2 · 30 s  9 of 10 · 70 s            11 of 12 · 100 s',
    'microvm/qemu  2 · 60 s                  1 · 10 s  3 · 70 s',
  ])
})

test('the sum counts cases and seconds of all', () => {
  expect(sum(results)).toMatchObject({ passed: 14, failed: 1, seconds: 169.75 })
})
