import { type Config, ConfigError } from '../config.ts'
import { chooseInstalled, isForTests } from '../engines/for-tests.ts'
import type { EngineInstaller } from '../engines/installer.ts'
import { installCommand, installers } from '../engines/installers.ts'

interface EngineRow {
  name: string
  engine: string
  doc: string
  /** Version and place; null when it is not installed. */
  installed: string | null
}

async function rowOf(installer: EngineInstaller, config: Config): Promise<EngineRow> {
  const { name, engine, doc } = installer
  const installed = isForTests(config, name) ? undefined : await installer.installed(config)
  return { name, engine, doc, installed: installed ?? null }
}

/** Prints what `engine install` knows and what of it is there. */
export async function listEngines(config: Config, json: boolean): Promise<void> {
  const rows = await Promise.all(
    installers.map(async (installer) => ({
      ...(await rowOf(installer, config)),
      command: installCommand(installer),
    })),
  )
  if (json) {
    process.stdout.write(`${JSON.stringify({ engines: rows }, null, 2)}\n`)
    return
  }
  for (const { name, doc, installed, command } of rows) {
    process.stdout.write(`${name.padEnd(12)} ${installed ? `installed: ${installed}` : 'not installed'}\n`)
    process.stdout.write(`${' '.repeat(13)}${doc}\n`)
    if (!installed) process.stdout.write(`${' '.repeat(13)}→ ${command}\n`)
  }
}

/**
 * Installs an engine; one that is there is left alone. Progress goes to stderr, the outcome to stdout.
 * @throws ConfigError for a name that is not known; Error that says what is missing
 */
export async function installEngine(config: Config, name: string | undefined, json: boolean): Promise<void> {
  const installer = installers.find((known) => known.name === name)
  if (!installer) {
    const known = installers.map((each) => each.name).join(', ')
    throw new ConfigError(
      name === undefined
        ? `Which engine? Use one of ${known}`
        : `'${name}' is not an engine that can be installed: use one of ${known}`,
    )
  }
  const began = Date.now()
  await installer.install(config, (line) => process.stderr.write(`${installer.name}: ${line}\n`))
  chooseInstalled(config, installer.name)
  const row = await rowOf(installer, config)
  const seconds = ((Date.now() - began) / 1000).toFixed(0)
  process.stdout.write(
    json ? `${JSON.stringify(row, null, 2)}\n` : `${row.name} ${row.installed}, ready after ${seconds} s\n`,
  )
}
