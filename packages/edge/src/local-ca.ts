import 'reflect-metadata'
import { createPrivateKey, type webcrypto, X509Certificate } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import * as x509 from '@peculiar/x509'
import { hostName } from './target.ts'

const DAY_MS = 86_400_000
const CA_DAYS = 3650
// Browsers and Apple's libraries refuse server certificates that live longer.
const SERVER_DAYS = 397
const RENEW_BEFORE_MS = 30 * DAY_MS
/** A day back, for clients whose clock is behind. */
const BACKDATE_MS = DAY_MS
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const
const SYSTEM_BUNDLES = ['/etc/ssl/certs/ca-certificates.crt', '/etc/pki/tls/certs/ca-bundle.crt']

export interface LocalCaOptions {
  /** Where keys and certificates are kept; made when missing. */
  readonly dir: string
  /** Public domain of the edge; a port in it is ignored. */
  readonly domain: string
  /** PEM bundle of the authorities that clients trust anyway. Default: the system's. */
  readonly systemBundle?: string
}

export interface LocalCa {
  readonly caPath: string
  readonly caCertPem: string
  /** The system's authorities and ours in one file, for `SSL_CERT_FILE`. */
  readonly bundlePath: string
  /** PEM identity of the TLS listener. */
  readonly server: { readonly key: string; readonly cert: string }
}

interface Identity {
  readonly keyPem: string
  readonly certPem: string
}

const der = (tag: number, ...parts: Uint8Array[]): Buffer => {
  const content = Buffer.concat(parts)
  // Names of a domain stay far below 64 KiB.
  const length =
    content.length < 0x80
      ? [content.length]
      : content.length < 0x100
        ? [0x81, content.length]
        : [0x82, content.length >> 8, content.length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...length]), content])
}

/** RFC 5280 4.2.1.10: this authority can vouch for the domain and loopback alone, should its key leak. */
function nameConstraints(domain: string): x509.Extension {
  const dns = [domain, 'localhost'].map((name) => der(0x30, der(0x82, Buffer.from(name, 'ascii'))))
  const loopback = der(0x30, der(0x87, Buffer.from([127, 0, 0, 1, 255, 255, 255, 255])))
  return new x509.Extension('2.5.29.30', true, der(0x30, der(0xa0, ...dns, loopback)))
}

const serverNames = (domain: string): x509.JsonGeneralNames => [
  { type: 'dns', value: domain },
  { type: 'dns', value: `*.${domain}` },
  { type: 'dns', value: `api.${domain}` },
  { type: 'dns', value: 'localhost' },
  { type: 'ip', value: '127.0.0.1' },
]

const validity = (days: number): { notBefore: Date; notAfter: Date } => ({
  notBefore: new Date(Date.now() - BACKDATE_MS),
  notAfter: new Date(Date.now() + days * DAY_MS),
})

const newKeys = (): Promise<webcrypto.CryptoKeyPair> =>
  crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify'])

async function keyPem(keys: webcrypto.CryptoKeyPair): Promise<string> {
  return x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', keys.privateKey), 'PRIVATE KEY')
}

async function makeCa(domain: string): Promise<Identity> {
  const keys = await newKeys()
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    ...validity(CA_DAYS),
    name: [{ CN: [`Local sandbox authority for ${domain}`] }],
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      nameConstraints(domain),
    ],
  })
  return { keyPem: await keyPem(keys), certPem: certificate.toString('pem') }
}

async function makeServer(domain: string, ca: Identity): Promise<Identity> {
  const issuer = new x509.X509Certificate(ca.certPem)
  const [pkcs8] = x509.PemConverter.decode(ca.keyPem)
  if (!pkcs8) throw new Error('the private key of the local authority is not PEM')
  const keys = await newKeys()
  const certificate = await x509.X509CertificateGenerator.create({
    ...validity(SERVER_DAYS),
    subject: [{ CN: [domain] }],
    issuer: issuer.subject,
    publicKey: keys.publicKey,
    signingKey: await crypto.subtle.importKey('pkcs8', pkcs8, ALGORITHM, false, ['sign']),
    signingAlgorithm: ALGORITHM,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
      new x509.SubjectAlternativeNameExtension(serverNames(domain)),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  })
  return { keyPem: await keyPem(keys), certPem: certificate.toString('pem') }
}

const readIfThere = (path: string): Promise<string | undefined> =>
  readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })

/** Whole or not at all, also after a loss of power, and never readable by others before its mode is set. */
async function writeAtomically(path: string, text: string, mode: number): Promise<void> {
  const draft = `${path}.${process.pid}.new`
  await writeFile(draft, text, { mode, flush: true })
  await rename(draft, path)
}

async function readIdentity(dir: string, name: string): Promise<Identity | undefined> {
  const keyText = await readIfThere(join(dir, `${name}.key`))
  const certText = await readIfThere(join(dir, `${name}.pem`))
  if (keyText === undefined || certText === undefined) return undefined
  try {
    const fresh = new x509.X509Certificate(certText).notAfter.getTime() > Date.now() + RENEW_BEFORE_MS
    const paired = new X509Certificate(certText).checkPrivateKey(createPrivateKey(keyText))
    return fresh && paired ? { keyPem: keyText, certPem: certText } : undefined
  } catch {
    // A damaged file, or a key whose certificate was not written any more, is replaced like an expired one.
    return undefined
  }
}

async function saveIdentity(dir: string, name: string, identity: Identity): Promise<void> {
  await writeAtomically(join(dir, `${name}.key`), identity.keyPem, 0o600)
  await writeAtomically(join(dir, `${name}.pem`), identity.certPem, 0o644)
}

/** True when `server` was made for this domain by this authority, and its key belongs to it. */
async function belongs(server: Identity, ca: Identity, domain: string): Promise<boolean> {
  const certificate = new x509.X509Certificate(server.certPem)
  const names = certificate.getExtension(x509.SubjectAlternativeNameExtension)?.names.items ?? []
  if (!names.some((name) => name.value === `*.${domain}`)) return false
  const issuer = new x509.X509Certificate(ca.certPem)
  return certificate.verify({ publicKey: issuer.publicKey, signatureOnly: true })
}

async function readSystemBundle(given: string | undefined): Promise<string> {
  for (const path of given === undefined ? SYSTEM_BUNDLES : [given]) {
    const text = await readIfThere(path)
    if (text !== undefined) return text
  }
  return ''
}

/**
 * The local certificate authority and the edge's certificate, made on first use and kept while they are valid
 * (renewed 30 days before). Private keys are readable by their owner alone.
 */
export async function ensureLocalCa(options: LocalCaOptions): Promise<LocalCa> {
  const { dir } = options
  const domain = hostName(options.domain)
  await mkdir(dir, { recursive: true, mode: 0o755 })
  let ca = await readIdentity(dir, 'ca')
  const constrainedTo = ca && new x509.X509Certificate(ca.certPem).subject
  if (!ca || constrainedTo !== `CN=Local sandbox authority for ${domain}`) {
    ca = await makeCa(domain)
    await saveIdentity(dir, 'ca', ca)
  }
  let server = await readIdentity(dir, 'server')
  if (!server || !(await belongs(server, ca, domain))) {
    server = await makeServer(domain, ca)
    await saveIdentity(dir, 'server', server)
  }
  const bundlePath = join(dir, 'bundle.pem')
  const bundle = `${(await readSystemBundle(options.systemBundle)).trimEnd()}\n${ca.certPem}\n`.trimStart()
  if ((await readIfThere(bundlePath)) !== bundle) await writeAtomically(bundlePath, bundle, 0o644)
  return {
    caPath: join(dir, 'ca.pem'),
    caCertPem: ca.certPem,
    bundlePath,
    server: { key: server.keyPem, cert: server.certPem },
  }
}
