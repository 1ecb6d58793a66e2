import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Config } from '../config.ts'
import { runCommand } from './run-command.ts'

const CLIENTS = ['e2b', 'e2b-code-interpreter'] as const

/** The virtual environment with the official Python clients. */
export const clientsVenv = (config: Pick<Config, 'stateDir'>): string => join(config.stateDir, 'clients')

/**
 * Installs the newest published Python clients, and `extra` packages, into an environment of their own.
 * Each set is installed once; a finished one is told by its stamp.
 */
export async function installPythonClients(
  config: Pick<Config, 'stateDir'>,
  logPath: string,
  extra: readonly string[] = [],
): Promise<string> {
  const dir = clientsVenv(config)
  const packages = [...CLIENTS, ...extra]
  const stamp = join(
    dir,
    `installed-${createHash('sha256').update(packages.join(' ')).digest('hex').slice(0, 12)}`,
  )
  const pip = join(dir, 'bin', 'pip')
  if (existsSync(stamp)) return readFileSync(stamp, 'utf8')
  mkdirSync(config.stateDir, { recursive: true })
  if (!existsSync(pip)) await runCommand(['/usr/bin/python3', '-m', 'venv', dir], { logPath })
  await runCommand([pip, 'install', '-q', '--disable-pip-version-check', ...packages], { logPath })
  const listed = await runCommand([pip, 'list', '--format=freeze', '--disable-pip-version-check'])
  const versions = listed.split('\n').filter((line) => /^e2b/.test(line))
  writeFileSync(stamp, versions.join(' '))
  return versions.join(' ')
}
