import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Config, loadConfig } from '../config.ts'
import { chooseInstalled, installForTests, isForTests } from './for-tests.ts'
import type { EngineInstaller } from './installer.ts'
import { qemuMonitors } from './microvm.ts'

let config: Config
beforeEach(() => {
  const imagesDir = mkdtempSync(join(tmpdir(), 'for-tests-'))
  config = loadConfig({}, { E2B_IMAGES_DIR: imagesDir, E2B_CONFIG: '/dev/null' })
})
afterEach(() => rmSync(config.imagesDir, { recursive: true }))

/** Says of each installation whether it was marked when it began. */
function installerOf(isThere: boolean): EngineInstaller & { marked: boolean[] } {
  let installed = isThere
  const marked: boolean[] = []
  return {
    ...{ name: 'qemu', engine: 'microvm', doc: '', marked },
    installed: async () => (installed ? '1' : undefined),
    async install(place) {
      marked.push(isForTests(place, 'qemu'))
      installed = true
      return '1'
    },
  }
}

test('what tests install is marked from the beginning, until the operator installs it', async () => {
  const installer = installerOf(false)
  await installForTests(installer, config, () => {})
  await installForTests(installer, config, () => {})
  expect([installer.marked, isForTests(config, 'qemu')]).toEqual([[true], true])
  chooseInstalled(config, 'qemu')
  expect(isForTests(config, 'qemu')).toBe(false)
})

test('what the operator has installed stays chosen', async () => {
  await installForTests(installerOf(true), config, () => {})
  expect(isForTests(config, 'qemu')).toBe(false)
})

test('what tests alone have installed serves by its name, and not by auto', async () => {
  const names = (isolation: Config['isolation']) =>
    qemuMonitors({ ...config, isolation }, '/run', process.execPath).map(({ name }) => name)
  await installForTests(installerOf(false), config, () => {})
  expect([names('auto'), names('microvm'), names('container')]).toEqual([[], ['qemu'], ['qemu']])
  chooseInstalled(config, 'qemu')
  expect(names('auto')).toEqual(['qemu'])
})
