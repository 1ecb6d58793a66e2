import { tmpdir } from 'node:os'
import { expect, test } from 'vitest'
import { MachineGauge } from './machine-gauge.ts'

test('says what the machine is, what it writes to, and how busy it has been', () => {
  const gauge = new MachineGauge(['/', `${tmpdir()}/not-there`, '/proc/self'])
  expect(gauge.facts.cpuArchitecture).toMatch(/\w/)
  expect(gauge.facts.cpuModelName).toEqual(expect.any(String))
  const [root, ...others] = gauge.disks()
  expect(root).toMatchObject({ mountPoint: '/', fileSystemType: expect.stringMatching(/\w/) })
  expect(root!.usedBytes).toBeGreaterThan(0)
  expect(root!.totalBytes).toBeGreaterThan(root!.usedBytes)
  expect(others.find(({ mountPoint }) => mountPoint === '/proc')).toMatchObject({ fileSystemType: 'proc' })
  expect(new Set([root, ...others].map((disk) => disk?.mountPoint)).size).toBe(others.length + 1)

  const beganMs = performance.now()
  while (performance.now() - beganMs < 700);
  const usedPct = gauge.cpuUsedPct()
  expect(usedPct).toBeGreaterThan(0)
  expect(usedPct).toBeLessThanOrEqual(100)
  expect(gauge.cpuUsedPct()).toBe(usedPct)
})
