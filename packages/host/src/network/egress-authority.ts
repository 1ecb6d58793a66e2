import 'reflect-metadata'
import type { webcrypto } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createSecureContext, type SecureContext } from 'node:tls'
import * as x509 from '@peculiar/x509'
import { writeDurably } from '../linux/durable.ts'

/**
 * The authority whose certificates sandboxes with rules are shown instead of the servers' own. Each instance has its
 * own, its key never leaves the machine, and only sandboxes with rules are told to trust it.
 */

const dayMs = 86_400_000
const authorityDays = 3_650
const serverDays = 30
/** A certificate is made anew when it has less than this left. */
const renewBeforeMs = dayMs
const backdateMs = dayMs
/** Names whose certificates are kept; the oldest goes. */
const maxContexts = 512
const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const

interface Context {
  secureContext: Promise<SecureContext>
  untilMs: number
}

export class EgressAuthority {
  readonly certPem: string
  readonly #certificate: x509.X509Certificate
  readonly #key: webcrypto.CryptoKey
  readonly #contexts = new Map<string, Context>()

  private constructor(certPem: string, key: webcrypto.CryptoKey) {
    this.certPem = certPem
    this.#certificate = new x509.X509Certificate(certPem)
    this.#key = key
  }

  /** The authority kept in a directory, made on first use. */
  static async open(dir: string): Promise<EgressAuthority> {
    const path = join(dir, 'egress-authority.pem')
    const kept = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      throw error
    })
    const pem = kept ?? (await makeAuthority())
    if (kept === undefined) {
      await mkdir(dir, { recursive: true, mode: 0o700 })
      // Key and certificate in one file: whole or not at all.
      await writeDurably(path, pem, 0o600)
    }
    const [certificate, key] = x509.PemConverter.decodeWithHeaders(pem)
    if (!certificate || !key) throw new Error(`${path} does not hold a certificate and a key`)
    const usable = await crypto.subtle.importKey('pkcs8', key.rawData, algorithm, false, ['sign'])
    return new EgressAuthority(x509.PemConverter.encode(certificate.rawData, 'CERTIFICATE'), usable)
  }

  /** What a server for a name shows; kept for the next connection. */
  contextFor(name: string): Promise<SecureContext> {
    const known = this.#contexts.get(name)
    if (known && known.untilMs > Date.now()) return known.secureContext
    const secureContext = this.#makeContext(name)
    this.#contexts.delete(name)
    this.#contexts.set(name, { secureContext, untilMs: Date.now() + serverDays * dayMs - renewBeforeMs })
    secureContext.catch(() => this.#contexts.delete(name))
    for (const oldest of this.#contexts.keys()) {
      if (this.#contexts.size <= maxContexts) break
      this.#contexts.delete(oldest)
    }
    return secureContext
  }

  async #makeContext(name: string): Promise<SecureContext> {
    const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
    const certificate = await x509.X509CertificateGenerator.create({
      ...validity(serverDays),
      // A common name holds 64 characters at most; clients read the alternative name.
      subject: [{ CN: ['sandbox egress'] }],
      issuer: this.#certificate.subject,
      publicKey: keys.publicKey,
      signingKey: this.#key,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(false, undefined, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
        new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
        new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: name }]),
        await x509.AuthorityKeyIdentifierExtension.create(this.#certificate.publicKey),
      ],
    })
    return createSecureContext({ key: await keyPem(keys.privateKey), cert: certificate.toString('pem') })
  }
}

async function makeAuthority(): Promise<string> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify'])
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    ...validity(authorityDays),
    name: [{ CN: ['Sandbox egress authority'] }],
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  })
  return `${certificate.toString('pem')}\n${await keyPem(keys.privateKey)}\n`
}

async function keyPem(key: webcrypto.CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY')
}

const validity = (days: number): { notBefore: Date; notAfter: Date } => ({
  notBefore: new Date(Date.now() - backdateMs),
  notAfter: new Date(Date.now() + days * dayMs),
})
