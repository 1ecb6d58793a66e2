import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { findRunsc, isCurrent, RUNSC_VERSION, runscPath } from './gvisor.ts'
import { removeBroken } from './install-gvisor.ts'

let dir: string
const path = process.env.PATH

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'runsc-'))
  process.env.PATH = join(dir, 'bin')
})

afterEach(() => {
  process.env.PATH = path
  rmSync(dir, { recursive: true })
})

function program(at: string, version: string): void {
  mkdirSync(dirname(at), { recursive: true })
  writeFileSync(at, `#!/bin/sh\necho 'runsc version ${version}'\necho 'spec: 1.2.1'\n`)
  chmodSync(at, 0o755)
}

test('versions are compared by their dates, whatever form they have', () => {
  expect(isCurrent(RUNSC_VERSION)).toBe(true)
  expect(isCurrent('release-20261102.0')).toBe(true)
  expect(isCurrent('20261102.0')).toBe(true)
  expect(isCurrent('v0.0.0-20270101000000-0123456789ab')).toBe(true)
  expect(isCurrent('release-20240729.0')).toBe(false)
  expect(isCurrent('VERSION_MISSING')).toBe(false)
})

test('a runsc on the PATH serves unless it is too old', async () => {
  const config = { imagesDir: join(dir, 'images') }
  expect(await findRunsc(config)).toBeUndefined()
  const onPath = join(dir, 'bin', 'runsc')
  program(onPath, 'release-20240729.0')
  expect(await findRunsc(config)).toBeUndefined()
  program(onPath, 'release-20261102.0')
  expect(await findRunsc(config)).toEqual({ path: onPath, version: 'release-20261102.0' })
})

test('the one installed here comes first', async () => {
  const config = { imagesDir: join(dir, 'images') }
  program(join(dir, 'bin', 'runsc'), 'release-20261102.0')
  program(runscPath(config), RUNSC_VERSION)
  expect(await findRunsc(config)).toEqual({ path: runscPath(config), version: RUNSC_VERSION })
})

test('one that was damaged is taken away by the installer, one that works stays', async () => {
  const config = { imagesDir: join(dir, 'images') }
  await removeBroken(config)
  program(runscPath(config), RUNSC_VERSION)
  await removeBroken(config)
  expect(await findRunsc(config)).toBeDefined()
  writeFileSync(runscPath(config), 'half of a program')
  await removeBroken(config)
  expect(await findRunsc(config)).toBeUndefined()
})
