import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { unmountTree } from '../../linux/mount-table.ts'
import { prepareMonitorDevices } from './monitor-devices.ts'

const directory = mkdtempSync(join(tmpdir(), 'monitor-devices-'))

afterAll(() => {
  unmountTree(directory)
  rmSync(directory, { recursive: true })
})

test('a device that comes after the first machine, or whose node a daemon did not get to make, is there for the next', () => {
  const binds = prepareMonitorDevices(directory)
  expect(binds.map(({ to }) => to)).toContain('/dev/net/tun')
  for (const { from } of binds) rmSync(from)
  expect(prepareMonitorDevices(directory)).toEqual(binds)
  for (const { from, to } of binds) {
    const { mode, rdev } = statSync(from)
    expect([mode & 0o777, rdev]).toEqual([0o666, statSync(to).rdev])
  }
})
