import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { ConfigError, configEnvironment, loadConfig } from './config.ts'

let dir: string
let file: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'config-'))
  file = join(dir, 'config.json')
})
afterEach(() => rmSync(dir, { recursive: true }))

const write = (settings: object): void => writeFileSync(file, JSON.stringify(settings))

test('the command line beats the environment, which beats the file, which beats the default', () => {
  write({ apiPort: 1111, proxyPort: 1111, httpsPort: 1111 })
  const config = loadConfig(
    { config: file, httpsPort: '3333' },
    { E2B_PROXY_PORT: '2222', E2B_HTTPS_PORT: '2222' },
  )
  const { apiPort, proxyPort, httpsPort, bind } = config
  expect({ apiPort, proxyPort, httpsPort, bind }).toEqual({
    apiPort: 1111,
    proxyPort: 2222,
    httpsPort: 3333,
    bind: '127.0.0.1',
  })
})

test('an empty file has no settings', () => {
  expect(loadConfig({}, { E2B_CONFIG: '/dev/null' }).apiPort).toBe(3000)
})

test('places are absolute, wherever they come from', () => {
  write({ runDir: 'run' })
  const config = loadConfig({ config: file, stateDir: './state' }, { E2B_CA_BUNDLE: '../ca.pem' })
  const { stateDir, imagesDir, runDir, caBundle, firecracker } = config
  const here = process.cwd()
  expect({ stateDir, imagesDir, runDir, caBundle, firecracker }).toEqual({
    stateDir: join(here, 'state'),
    imagesDir: join(here, 'state', 'images'),
    runDir: join(here, 'run'),
    caBundle: join(here, '..', 'ca.pem'),
    firecracker: '',
  })
})

test('rate limits may be an object of the file', () => {
  const limits = { '*': { rate: 1, burst: 1, period_s: 1 } }
  write({ rateLimits: limits })
  expect(JSON.parse(loadConfig({ config: file }, {}).rateLimits)).toEqual(limits)
})

test.each([
  ['a file that was named and is not there', { E2B_CONFIG: '/none.json' }, /cannot be read.*ENOENT/],
  ['a port beyond 65535', { E2B_API_PORT: '65536' }, /E2B_API_PORT .*from 1 to 65535, not '65536'/],
  ['a number that is a blank', { E2B_POOL_MAX: ' ' }, /whole number of at least 0/],
  ['an engine that does not exist', { E2B_ISOLATION: 'jail' }, /one of auto, microvm, gvisor, container/],
  ['an instance that is no prefix', { E2B_INSTANCE: 'Seven77' }, /E2B_INSTANCE/],
])('refuses %s', (_what, env, says) => {
  const refused = (): unknown => loadConfig({}, { E2B_CONFIG: '/dev/null', ...env })
  expect(refused).toThrow(ConfigError)
  expect(refused).toThrow(says)
})

test('refuses a file with a name that is no setting, and one that is no JSON', () => {
  write({ apiport: 3000 })
  expect(() => loadConfig({ config: file }, {})).toThrow(/unknown settings: apiport/)
  writeFileSync(file, '{')
  expect(() => loadConfig({ config: file }, {})).toThrow(/not valid JSON/)
})

test('a process that gets the environment of a configuration has the same one', () => {
  write({ apiPort: 1111, domain: 'sandboxes.example' })
  const config = loadConfig({ config: file, stateDir: dir }, { E2B_ON_SHUTDOWN: 'kill' })
  expect(loadConfig({}, configEnvironment(config))).toEqual(config)
})

test('it takes nothing from a file that was not read, also where a setting is empty', () => {
  write({ databaseUrl: 'postgres://elsewhere/', adminToken: 'secret' })
  const config = loadConfig({ config: '/dev/null' }, {})
  expect(loadConfig({}, { E2B_CONFIG: file, ...configEnvironment(config) })).toEqual(config)
})
