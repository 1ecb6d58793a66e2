import { expect, it } from 'vitest'
import { traitsOf } from './firecracker-version.ts'

const GIBIBYTE = 2 ** 30

it.each([
  ['1.12.1', 'enable_diff_snapshots', false, 3 * GIBIBYTE],
  ['1.13.0', 'track_dirty_pages', false, 3 * GIBIBYTE],
  ['1.14.0', 'track_dirty_pages', false, 3 * GIBIBYTE],
  ['1.14.1', 'track_dirty_pages', false, Number.POSITIVE_INFINITY],
  ['1.15.0', 'track_dirty_pages', true, Number.POSITIVE_INFINITY],
  ['1.16.1', 'track_dirty_pages', true, Number.POSITIVE_INFINITY],
  ['2.0.0', 'track_dirty_pages', true, Number.POSITIVE_INFINITY],
] as const)('Firecracker %s', (version, dirtyTracking, reportsFreePages, largestDifferenceBytes) => {
  expect(traitsOf(version)).toEqual({ dirtyTracking, reportsFreePages, largestDifferenceBytes })
})
