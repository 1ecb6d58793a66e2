import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { diskLimiter, keepLimits, limitChanges, networkLimiters, recordLimits } from './firecracker-limits.ts'
import type { MachinePlan } from './monitor.ts'

let memoryDir: string
beforeEach(() => {
  memoryDir = mkdtempSync(join(tmpdir(), 'limits-'))
})
afterEach(() => rmSync(memoryDir, { recursive: true }))

const plan = (more: Partial<MachinePlan> = {}): MachinePlan =>
  ({
    memoryDir,
    tap: 'tap0',
    drives: [
      { path: '/disk', readOnly: false },
      { path: '/layer', readOnly: true },
    ],
    ...more,
  }) as MachinePlan

test('a bucket holds a quarter of a second, and the largest operation; none is no limit', () => {
  const bandwidth = { size: 2_500_000, refill_time: 250 }
  expect(diskLimiter({ diskBytesPerSecond: 10_000_000 })).toEqual({ rate_limiter: { bandwidth } })
  expect(networkLimiters({ networkBytesPerSecond: 10_000_000 })).toEqual({
    rx_rate_limiter: { bandwidth },
    tx_rate_limiter: { bandwidth },
  })
  const small = { rate_limiter: { bandwidth: { size: 1_310_720, refill_time: 1311 } } }
  expect(diskLimiter({ diskBytesPerSecond: 1_000_000 })).toEqual(small)
  const slow = { bandwidth: { size: 65_562, refill_time: 525 } }
  expect(networkLimiters({ networkBytesPerSecond: 125_000 })).toEqual({
    rx_rate_limiter: slow,
    tx_rate_limiter: slow,
  })
  expect(diskLimiter({})).toEqual({ rate_limiter: { bandwidth: { size: 0, refill_time: 0 } } })
})

test('nothing is changed of a machine that boots, or was captured under the same limits', () => {
  const limits = { diskBytesPerSecond: 10, networkBytesPerSecond: 20 }
  expect(limitChanges(plan({ memoryDir: undefined }), limits)).toEqual([])
  recordLimits(memoryDir, limits)
  expect(limitChanges(plan(), limits)).toEqual([])
})

test('a capture keeps what its machine runs under', () => {
  const machineDir = mkdtempSync(join(memoryDir, 'machine-'))
  keepLimits(machineDir, memoryDir)
  expect(limitChanges(plan(), {})).toEqual([])
  recordLimits(machineDir, { diskBytesPerSecond: 10 })
  keepLimits(machineDir, memoryDir)
  expect(limitChanges(plan(), { diskBytesPerSecond: 10 })).toEqual([])
  expect(limitChanges(plan(), {})).toHaveLength(1)
})

test('limits that came, changed or went since are set: of the writable disk and the network', () => {
  const paths = (limits: Parameters<typeof limitChanges>[1], more: Partial<MachinePlan> = {}): string[] =>
    limitChanges(plan(more), limits).map(({ path }) => path)
  expect(paths({})).toEqual([])
  expect(paths({ diskBytesPerSecond: 10 })).toEqual(['/drives/drive0'])
  expect(paths({ networkBytesPerSecond: 10 })).toEqual(['/network-interfaces/net'])
  expect(paths({ networkBytesPerSecond: 10 }, { tap: undefined })).toEqual([])
  recordLimits(memoryDir, { diskBytesPerSecond: 10, networkBytesPerSecond: 20 })
  expect(paths({ networkBytesPerSecond: 20 })).toEqual(['/drives/drive0'])
  expect(paths({})).toEqual(['/drives/drive0', '/network-interfaces/net'])
})
