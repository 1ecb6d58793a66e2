import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Config, loadConfig } from '../config.ts'
import { firecrackerPaths } from './firecracker.ts'
import { firecrackerInstaller, installRelease } from './install-firecracker.ts'

const VERSION = 'v0.0.1-x86_64'

let dir: string
let target: string
let server: Server
let archive: Buffer
let sha256: string

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), 'install-fc-'))
  target = join(dir, 'engines/firecracker')
  const folder = join(dir, `release-${VERSION}`)
  mkdirSync(folder)
  for (const name of ['firecracker', 'jailer', 'seccompiler'])
    writeFileSync(join(folder, `${name}-${VERSION}`), `#!/bin/sh\necho ${name}\n`)
  execFileSync('tar', ['-czf', join(dir, 'release.tgz'), '-C', dir, `release-${VERSION}`])
  archive = readFileSync(join(dir, 'release.tgz'))
  sha256 = createHash('sha256').update(archive).digest('hex')
  server = createServer((request, response) => {
    if (request.url !== '/release.tgz') return void response.writeHead(404).end()
    response.writeHead(200, { 'Content-Length': archive.length }).end(archive)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
})

afterEach(() => {
  server.close()
  rmSync(dir, { recursive: true, force: true })
})

function install(changes: { sha256?: string; path?: string; version?: string } = {}): Promise<void> {
  const { port } = server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}${changes.path ?? '/release.tgz'}`
  const release = { version: changes.version ?? VERSION, url, sha256: changes.sha256 ?? sha256 }
  return installRelease(target, release, () => {})
}

test('a release whose checksum is right gives two programs and nothing else', async () => {
  await install()
  expect(readdirSync(target).sort()).toEqual(['firecracker', 'jailer'])
  expect(statSync(join(target, 'jailer')).mode & 0o777).toBe(0o755)
  expect(execFileSync(join(target, 'jailer'), { encoding: 'utf8' })).toBe('jailer\n')
  expect(readdirSync(join(target, '..'))).toEqual(['firecracker'])
})

test.each([
  ['another checksum', { sha256: '0'.repeat(64) }, /checksum [0-9a-f]{64}, not 0{64}: nothing was installed/],
  ['no such release', { path: '/other.tgz' }, /answered 404/],
  ['an archive with other programs', { version: 'v9-x86_64' }, /ENOENT/],
])('%s leaves nothing', async (_what, changes, message) => {
  await expect(install(changes)).rejects.toThrow(message)
  expect(readdirSync(join(target, '..'))).toEqual([])
})

test('an archive that comes damaged leaves nothing', async () => {
  archive = archive.subarray(0, archive.length - 1)
  await expect(install()).rejects.toThrow(/checksum/)
  expect(readdirSync(join(target, '..'))).toEqual([])
})

test('a server that cannot be reached is told with what to do instead', async () => {
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  const release = { version: VERSION, url: `http://127.0.0.1:${port}/release.tgz`, sha256 }
  await expect(installRelease(target, release, () => {})).rejects.toThrow(/E2B_FIRECRACKER and E2B_JAILER/)
})

/** Programs that say a version, or cannot be run; with all that an installation has besides. */
function installed(versions: { firecracker: string; jailer: string }): Config {
  const config = { ...loadConfig(), imagesDir: dir, firecracker: '', jailer: '' }
  const { firecracker, jailer, mountInto } = firecrackerPaths(config)
  for (const [path, version] of [
    [firecracker, versions.firecracker],
    [jailer, versions.jailer],
    [mountInto, '1.0.0'],
  ] as const) {
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, version ? `#!/bin/sh\necho Program v${version}\n` : 'half a program', { mode: 0o755 })
  }
  return config
}

test('what cannot be run, or is of two versions, is not installed, and what the operator names is left to him', async () => {
  const whole = installed({ firecracker: '1.2.3', jailer: '1.2.3' })
  expect(await firecrackerInstaller.installed(whole)).toMatch(/^1\.2\.3 \(/)
  for (const versions of [
    { firecracker: '', jailer: '1.2.3' },
    { firecracker: '1.2.3', jailer: '1.2.4' },
  ]) {
    const config = installed(versions)
    expect(await firecrackerInstaller.installed(config)).toBeUndefined()
    const named = { ...config, firecracker: firecrackerPaths(config).firecracker }
    await expect(firecrackerInstaller.install(named, () => {})).rejects.toThrow('correct E2B_FIRECRACKER')
    expect(readFileSync(named.firecracker, 'utf8')).not.toBe('')
  }
})
