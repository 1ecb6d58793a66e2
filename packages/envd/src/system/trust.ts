import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { RUN_DIR } from './identity.ts'
import { trustInJava } from './java-trust.ts'

/** Where the distributions keep the authorities that everything trusts; several may be one file. */
const BUNDLES = [
  'etc/ssl/certs/ca-certificates.crt',
  'etc/pki/tls/certs/ca-bundle.crt',
  'etc/ssl/ca-bundle.pem',
  'etc/ssl/cert.pem',
]
/** Taken up when the image builds its bundle anew: Debian and Alpine, Fedora. */
const ANCHOR_DIRS = ['usr/local/share/ca-certificates', 'etc/pki/ca-trust/source/anchors']
const ANCHOR_NAME = 'e2b-egress.crt'

const OWN_FILE = `${RUN_DIR}/egress-ca.crt`
/** Programs that bring authorities of their own, and take these files instead: a whole bundle each. */
const BUNDLE_VARIABLES = [
  'SSL_CERT_FILE',
  'REQUESTS_CA_BUNDLE',
  'CURL_CA_BUNDLE',
  'PIP_CERT',
  'GIT_SSL_CAINFO',
  'AWS_CA_BUNDLE',
]
/** The same, but beside their own. */
const EXTRA_VARIABLES = ['NODE_EXTRA_CA_CERTS', 'DENO_CERT']

/**
 * Makes the programs of the sandbox trust an authority: those that use the system's at once, Java when it starts, and
 * those with authorities of their own by the variables that are answered. Idempotent.
 * @param certificate PEM
 */
export function trustAuthority(rootDir: string, certificate: string): Record<string, string> {
  const text = `${certificate.trim()}\n`
  const bundles = BUNDLES.filter((path) => existsSync(join(rootDir, path)))
  for (const bundle of bundles.map((path) => join(rootDir, path))) {
    const known = readFileSync(bundle, 'utf8')
    if (!known.includes(text)) appendFileSync(bundle, known.endsWith('\n') ? text : `\n${text}`)
  }
  for (const dir of ANCHOR_DIRS.map((path) => join(rootDir, path))) {
    if (!existsSync(join(dir, '..'))) continue
    mkdirSync(dir, { recursive: true })
    writeFileSync(join(dir, ANCHOR_NAME), text)
  }
  mkdirSync(join(rootDir, RUN_DIR), { recursive: true })
  writeFileSync(join(rootDir, OWN_FILE), text)
  trustInJava(rootDir, derOf(text))
  return variables(bundles[0])
}

/** Without a bundle in the image only what is added to a program's own helps: ours alone would shut out the rest. */
function variables(bundle: string | undefined): Record<string, string> {
  return Object.fromEntries([
    ...(bundle === undefined ? [] : BUNDLE_VARIABLES.map((name) => [name, `/${bundle}`])),
    ...EXTRA_VARIABLES.map((name) => [name, `/${OWN_FILE}`]),
  ])
}

const derOf = (pem: string): Buffer => Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ''), 'base64')
