import { chmodSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { unmountTree } from '../../linux/mount-table.ts'
import { prepareDevices } from './devices.ts'

test('what a daemon that ended in the middle has left out is there with the next', () => {
  const path = mkdtempSync(join(tmpdir(), 'devices-'))
  onTestFinished(() => {
    unmountTree(path)
    rmSync(path, { recursive: true })
  })
  prepareDevices(path)
  const whole = readdirSync(path).sort()
  for (const name of ['zero', 'full', 'ptmx', 'mqueue']) rmSync(join(path, name), { recursive: true })
  chmodSync(join(path, 'null'), 0o644)
  prepareDevices(path)
  expect(readdirSync(path).sort()).toEqual(whole)
  expect(statSync(join(path, 'null')).mode & 0o777).toBe(0o666)
  expect(statSync(join(path, 'zero')).rdev).toBe(0x105)
})
