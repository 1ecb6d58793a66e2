import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config.ts'
import type { EngineInstaller } from './installer.ts'

/**
 * What tests install where the machine's engines are: it serves who asks for it by name, but `auto` does not choose it
 * until the operator installs it too. Nobody's sandboxes change their engine because tests have run.
 */

type Place = Pick<Config, 'imagesDir'>

const markPath = ({ imagesDir }: Place, name: string): string =>
  join(imagesDir, 'engines', `${name}.for-tests`)

/** Whether tests alone have installed it. */
export const isForTests = (place: Place, name: string): boolean => existsSync(markPath(place, name))

/** Installs what is missing for tests. */
export async function installForTests(
  installer: EngineInstaller,
  config: Config,
  say: (line: string) => void,
): Promise<void> {
  if (await installer.installed(config)) return
  mkdirSync(join(config.imagesDir, 'engines'), { recursive: true })
  writeFileSync(markPath(config, installer.name), '')
  await installer.install(config, say)
}

/** The operator has asked for it. */
export const chooseInstalled = (place: Place, name: string): void =>
  rmSync(markPath(place, name), { force: true })
