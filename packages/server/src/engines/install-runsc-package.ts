import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { runscVersion } from '@sandbox/host/engines/gvisor/runsc'
import { runCommand } from '../setup/run-command.ts'
import { isCurrent, RUNSC_VERSION } from './gvisor.ts'

/** A signed apt repository that has a package `runsc`. */
export interface RunscRepository {
  url: string
  suite: string
  component: string
  /** Of the armored public key that it is signed with. */
  keyUrl: string
}

/** As https://gvisor.dev/docs/user_guide/install/ has it. */
export const OFFICIAL_REPOSITORY: RunscRepository = {
  url: 'https://storage.googleapis.com/gvisor/releases',
  suite: 'release',
  component: 'main',
  keyUrl: 'https://gvisor.dev/archive.key',
}

/** A system that packages are installed into. */
export interface AptSystem {
  /** Where its files are; `/` is this machine. */
  root: string
  /** Options of every apt command for it. */
  aptOptions: readonly string[]
}

export const THIS_MACHINE: AptSystem = { root: '/', aptOptions: [] }

const KEYRING = 'usr/share/keyrings/gvisor-archive-keyring.asc'
const SOURCE = 'etc/apt/sources.list.d/gvisor.list'
const PROGRAM = 'usr/bin/runsc'
const PACKAGE = 'runsc'
const KEY_WITHIN_MS = 30_000
const ENVIRONMENT = { DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' }

type Say = (line: string) => void

/**
 * Installs runsc and, so that it is upgraded with the system, makes the repository one of the system's. Signature,
 * checksums and version are checked in a directory apart before anything of the system changes; whatever fails leaves
 * the system as it was.
 * @throws Error with what is wrong with the repository
 */
export async function installRunscPackage(
  say: Say,
  repository: RunscRepository = OFFICIAL_REPOSITORY,
  system: AptSystem = THIS_MACHINE,
): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), 'runsc-package-'))
  // apt reads as a user of its own.
  chmodSync(dir, 0o755)
  try {
    const key = await fetchKey(repository.keyUrl)
    const archive = await download(repository, key, dir, say)
    await installArchive(archive, system, say)
    const keyring = join(system.root, KEYRING)
    write(keyring, key)
    write(join(system.root, SOURCE), sourceLine(repository, keyring))
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

async function fetchKey(url: string): Promise<string> {
  const answer = await fetch(url, { signal: AbortSignal.timeout(KEY_WITHIN_MS) }).catch((error: unknown) => {
    throw new Error(`${url} cannot be reached: ${reason(error)}`)
  })
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`)
  return await answer.text()
}

const sourceLine = ({ url, suite, component }: RunscRepository, keyring: string): string =>
  `deb [signed-by=${keyring}] ${url} ${suite} ${component}\n`

/** The package of a version that serves, verified, in `dir`; with apt's directories there, too. */
async function download(repository: RunscRepository, key: string, dir: string, say: Say): Promise<string> {
  const keyring = join(dir, 'key.asc')
  const source = join(dir, 'source.list')
  write(keyring, key)
  write(source, sourceLine(repository, keyring))
  for (const name of ['lists', 'cache']) mkdirSync(join(dir, name))
  const options = [
    ...['-q', '-o', `Dir::Etc::sourcelist=${source}`, '-o', 'Dir::Etc::sourceparts=-'],
    ...['-o', 'Dir::Etc::preferencesparts=-', '-o', `Dir::State::lists=${dir}/lists`],
    ...['-o', `Dir::Cache=${dir}/cache`, '-o', 'APT::Update::Error-Mode=any', '-o', 'Acquire::Retries=1'],
  ]
  const { url } = repository
  const apt = (...argv: string[]): Promise<string> => runCommand(argv, { env: ENVIRONMENT, cwd: dir })
  say(`reading the apt repository ${url}`)
  await apt('apt-get', ...options, 'update').catch((error: unknown) => {
    throw new Error(`the apt repository ${url} cannot be used: ${reason(error)}`)
  })
  const offered = versionsIn(await apt('apt-cache', ...options, 'madison', PACKAGE))
  const version = offered.find((each) => isCurrent(each))
  if (!version)
    throw new Error(
      `the apt repository ${url} has no ${PACKAGE} of ${RUNSC_VERSION} or newer, only ${offered.join(', ') || 'none at all'}`,
    )
  say(`downloading ${PACKAGE} ${version}`)
  await apt('apt-get', ...options, 'download', `${PACKAGE}=${version}`)
  return join(dir, readdirSync(dir).find((name) => name.endsWith('.deb'))!)
}

/** Newest first, as apt has them. */
const versionsIn = (table: string): string[] =>
  table.split('\n').flatMap((line) => line.split('|')[1]?.trim() || [])

/** One that turns out to be another than its version says is removed again. */
async function installArchive(archive: string, { root, aptOptions }: AptSystem, say: Say): Promise<void> {
  const program = join(root, PROGRAM)
  const wasThere = existsSync(program)
  const apt = (...words: string[]): Promise<string> =>
    runCommand(['apt-get', ...aptOptions, '-y', '-q', ...words], { env: ENVIRONMENT })
  say(`apt-get install ${PACKAGE}`)
  try {
    await apt('install', '--no-install-recommends', archive)
    const version = await runscVersion(program)
    if (!isCurrent(version))
      throw new Error(`the packaged runsc calls itself '${version}', older than ${RUNSC_VERSION}`)
  } catch (error) {
    if (!wasThere) await apt('purge', PACKAGE)
    throw error
  }
}

function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, text, { mode: 0o644 })
}

function reason(error: unknown): string {
  const { message, cause } = error as Error
  return cause instanceof Error ? `${message}: ${cause.message}` : message
}
