import { X509Certificate } from 'node:crypto'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ensureLocalCa } from './local-ca.ts'

let dir: string
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'local-ca-'))
})
afterAll(() => rm(dir, { recursive: true }))

test('issues a certificate for the wildcard, the API and loopback, signed by a constrained authority', async () => {
  const ca = await ensureLocalCa({ dir, domain: 'e2b.localhost:3443' })
  const certificate = new X509Certificate(ca.server.cert)
  const authority = new X509Certificate(ca.caCertPem)
  expect(certificate.checkHost('49983-iabc.e2b.localhost')).toBe('*.e2b.localhost')
  expect(certificate.checkHost('api.e2b.localhost')).toBeDefined()
  expect(certificate.checkHost('localhost')).toBeDefined()
  expect(certificate.checkHost('other.example')).toBeUndefined()
  expect(certificate.checkIP('127.0.0.1')).toBeDefined()
  expect(certificate.verify(authority.publicKey)).toBe(true)
  expect(authority.ca).toBe(true)
  expect((await stat(join(dir, 'ca.key'))).mode & 0o777).toBe(0o600)
  expect((await stat(join(dir, 'server.key'))).mode & 0o777).toBe(0o600)
})

test('keeps what is valid and puts the authority into the bundle after the given one', async () => {
  const systemBundle = join(dir, 'server.pem')
  const first = await ensureLocalCa({ dir, domain: 'e2b.localhost', systemBundle })
  const second = await ensureLocalCa({ dir, domain: 'e2b.localhost', systemBundle })
  expect(second.caCertPem).toBe(first.caCertPem)
  expect(second.server.cert).toBe(first.server.cert)
  const bundle = await readFile(second.bundlePath, 'utf8')
  expect(bundle.startsWith(first.server.cert.trimEnd())).toBe(true)
  expect(bundle).toContain(first.caCertPem.trim())
})

test('makes a new authority when the domain changes', async () => {
  const before = await ensureLocalCa({ dir, domain: 'e2b.localhost' })
  const after = await ensureLocalCa({ dir, domain: 'sandboxes.test' })
  expect(after.caCertPem).not.toBe(before.caCertPem)
  expect(new X509Certificate(after.server.cert).checkHost('1-iabc.sandboxes.test')).toBeDefined()
})

test('replaces a damaged certificate and a key without its certificate', async () => {
  const before = await ensureLocalCa({ dir, domain: 'e2b.localhost' })
  await writeFile(join(dir, 'server.pem'), 'not a certificate')
  const repaired = await ensureLocalCa({ dir, domain: 'e2b.localhost' })
  expect(repaired.caCertPem).toBe(before.caCertPem)
  expect(repaired.server.cert).not.toBe(before.server.cert)
  await writeFile(join(dir, 'ca.key'), repaired.server.key)
  const renewed = await ensureLocalCa({ dir, domain: 'e2b.localhost' })
  const authority = new X509Certificate(renewed.caCertPem)
  expect(renewed.caCertPem).not.toBe(before.caCertPem)
  expect(new X509Certificate(renewed.server.cert).verify(authority.publicKey)).toBe(true)
})
