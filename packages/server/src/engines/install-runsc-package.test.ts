import { execFile, execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { RUNSC_VERSION } from './gvisor.ts'
import { type AptSystem, installRunscPackage, type RunscRepository } from './install-runsc-package.ts'

/** An apt repository of the test's own, signed with a key of its own, and a system apart that apt installs into. */

const PACKAGE_VERSION = '20260907.0'
const APT_MS = 60_000

let keys: string
let dir: string
let server: Server
const said: string[] = []

function gpg(...argv: string[]): string {
  return execFileSync('gpg', ['--homedir', keys, '--batch', '--quiet', '--yes', ...argv], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
  })
}

beforeAll(() => {
  // The agent's socket lies in it, whose name must be short.
  keys = mkdtempSync('/tmp/gpg-')
  for (const name of ['owner', 'stranger'])
    gpg('--passphrase', '', '--quick-generate-key', `${name}@example.test`, 'rsa3072', 'sign', '1d')
}, APT_MS)

afterAll(() => {
  execFileSync('gpgconf', ['--homedir', keys, '--kill', 'all'])
  rmSync(keys, { recursive: true, force: true })
})

beforeEach(async () => {
  dir = mkdtempSync('/tmp/runsc-apt-')
  chmodSync(dir, 0o755)
  said.length = 0
  server = createServer((request, response) => {
    const path = join(dir, 'www', request.url ?? '')
    if (!existsSync(path)) return void response.writeHead(404).end()
    response.end(readFileSync(path))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
})

afterEach(() => {
  server.close()
  rmSync(dir, { recursive: true, force: true })
})

interface Offer {
  /** Of the package. */
  version?: string
  /** What the program in it calls itself. */
  says?: string
  signedBy?: string
}

/** Offers one package; the key that is offered is always the owner's. */
function offer({ version = PACKAGE_VERSION, says = RUNSC_VERSION, signedBy = 'owner' }: Offer = {}): void {
  const www = join(dir, 'www')
  const lists = join(www, 'dists/release/main/binary-amd64')
  for (const path of [lists, join(www, 'pool')]) mkdirSync(path, { recursive: true })
  const control = `Package: runsc\nVersion: ${version}\nArchitecture: amd64\nMaintainer: Test <test@example.test>\nDescription: test\n`
  const tree = join(dir, 'tree')
  mkdirSync(join(tree, 'DEBIAN'), { recursive: true })
  mkdirSync(join(tree, 'usr/bin'), { recursive: true })
  writeFileSync(join(tree, 'DEBIAN/control'), control)
  writeFileSync(join(tree, 'usr/bin/runsc'), `#!/bin/sh\necho 'runsc version ${says}'\n`, { mode: 0o755 })
  const archive = join(www, 'pool/runsc.deb')
  execFileSync('dpkg-deb', ['--root-owner-group', '--build', tree, archive], { stdio: 'pipe' })
  const index = `${control}Filename: pool/runsc.deb\nSize: ${statSync(archive).size}\nSHA256: ${sha256(archive)}\n\n`
  writeFileSync(join(lists, 'Packages'), index)
  const listed = `${sha256(join(lists, 'Packages'))} ${Buffer.byteLength(index)} main/binary-amd64/Packages`
  const release = join(dir, 'Release')
  writeFileSync(
    release,
    `Suite: release\nCodename: release\nArchitectures: amd64\nComponents: main\nDate: ${new Date().toUTCString()}\nSHA256:\n ${listed}\n`,
  )
  const inRelease = join(www, 'dists/release/InRelease')
  gpg('--local-user', signedBy, '--clear-sign', '--output', inRelease, release)
  writeFileSync(join(www, 'archive.key'), gpg('--armor', '--export', 'owner'))
}

const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')

function repository(changes: Partial<RunscRepository> = {}): RunscRepository {
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return { url, suite: 'release', component: 'main', keyUrl: `${url}/archive.key`, ...changes }
}

/** An empty one of dpkg and apt. */
function emptySystem(): AptSystem {
  const root = join(dir, 'system')
  const places = [
    'var/lib/dpkg/updates',
    'var/lib/dpkg/info',
    'etc/apt/sources.list.d',
    'etc/apt/preferences.d',
  ]
  for (const path of [...places, 'var/cache/apt', 'var/lib/apt', 'var/log/apt'])
    mkdirSync(join(root, path), { recursive: true })
  writeFileSync(join(root, 'var/lib/dpkg/status'), '')
  const options = {
    Dir: root,
    'Dir::State::status': join(root, 'var/lib/dpkg/status'),
    'DPkg::Options::': `--root=${root}`,
  }
  return { root, aptOptions: Object.entries(options).flatMap(([name, value]) => ['-o', `${name}=${value}`]) }
}

const install = (system: AptSystem, from = repository()): Promise<void> =>
  installRunscPackage((line) => said.push(line), from, system)

/** What of gVisor a system has. */
const tracesIn = ({ root }: AptSystem): string[] =>
  readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((name) => /runsc|gvisor/.test(name))

const installedIn = ({ root }: AptSystem): string =>
  execFileSync(
    'dpkg-query',
    ['--root', root, '--show', '--showformat', '$' + '{Package} $' + '{Version}\n'],
    {
      encoding: 'utf8',
    },
  )

test(
  'a package of a signed repository is installed, and the repository becomes one of the system',
  async () => {
    offer()
    const system = emptySystem()
    await install(system)
    expect(installedIn(system)).toBe(`runsc ${PACKAGE_VERSION}\n`)
    expect(execFileSync(join(system.root, 'usr/bin/runsc'), { encoding: 'utf8' })).toContain(RUNSC_VERSION)
    const keyring = join(system.root, 'usr/share/keyrings/gvisor-archive-keyring.asc')
    expect(readFileSync(keyring, 'utf8')).toContain('BEGIN PGP PUBLIC KEY BLOCK')
    expect(readFileSync(join(system.root, 'etc/apt/sources.list.d/gvisor.list'), 'utf8')).toBe(
      `deb [signed-by=${keyring}] ${repository().url} release main\n`,
    )
    // The system's own apt reads and trusts it.
    await promisify(execFile)('apt-get', [
      ...[...system.aptOptions, '-o', 'APT::Update::Error-Mode=any', 'update'],
    ])
    expect(said.length).toBeGreaterThan(2)
  },
  APT_MS,
)

test.each<[string, Offer, RegExp]>([
  ['a signature of somebody else', { signedBy: 'stranger' }, /cannot be used: .*(NO_PUBKEY|not signed)/s],
  [
    'an older version',
    { version: '20240729.0' },
    /has no runsc of v0\.0\.0-2026\S+ or newer, only 20240729\.0$/,
  ],
  [
    'a program older than its package says',
    { says: 'release-20240729.0' },
    /calls itself 'release-20240729\.0'/,
  ],
])(
  '%s leaves the system as it was',
  async (_what, what, message) => {
    offer(what)
    const system = emptySystem()
    await expect(install(system)).rejects.toThrow(message)
    expect(tracesIn(system)).toEqual([])
    expect(installedIn(system)).toBe('')
  },
  APT_MS,
)

test.each<[string, () => void, RegExp]>([
  [
    'a package that was changed',
    () =>
      writeFileSync(
        join(dir, 'www/pool/runsc.deb'),
        'x'.repeat(statSync(join(dir, 'www/pool/runsc.deb')).size),
      ),
    /Hash Sum mismatch/,
  ],
  ['a repository without the package', () => rmSync(join(dir, 'www/pool'), { recursive: true }), /404/],
  [
    'a repository without a signature',
    () => rmSync(join(dir, 'www/dists/release/InRelease')),
    /cannot be used/,
  ],
  ['a repository without a key', () => rmSync(join(dir, 'www/archive.key')), /archive\.key answered 404/],
])(
  '%s leaves the system as it was',
  async (_what, damage, message) => {
    offer()
    damage()
    const system = emptySystem()
    await expect(install(system)).rejects.toThrow(message)
    expect(tracesIn(system)).toEqual([])
  },
  APT_MS,
)

test(
  'a repository that is not reached is told, whichever of its addresses it is',
  async () => {
    offer()
    const system = emptySystem()
    const closed = createServer()
    await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve))
    const { port } = closed.address() as AddressInfo
    await new Promise((resolve) => closed.close(resolve))
    const url = `http://127.0.0.1:${port}`
    await expect(install(system, repository({ url }))).rejects.toThrow(
      new RegExp(`apt repository ${url} cannot be used: .*(Could not connect|Connection refused)`, 's'),
    )
    await expect(install(system, repository({ keyUrl: `${url}/archive.key` }))).rejects.toThrow(
      /archive\.key cannot be reached: .*ECONNREFUSED/,
    )
    expect(tracesIn(system)).toEqual([])
  },
  APT_MS,
)
