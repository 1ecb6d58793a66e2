import { appendFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

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

/**
 * Makes the programs of the sandbox trust an authority, as far as they use the system's. Idempotent.
 * @param certificate PEM
 */
export function trustAuthority(rootDir: string, certificate: string): void {
  const text = `${certificate.trim()}\n`
  for (const bundle of BUNDLES.map((path) => join(rootDir, path)).filter(existsSync)) {
    const known = readFileSync(bundle, 'utf8')
    if (!known.includes(text)) appendFileSync(bundle, known.endsWith('\n') ? text : `\n${text}`)
  }
  for (const dir of ANCHOR_DIRS.map((path) => join(rootDir, path))) {
    if (!existsSync(join(dir, '..'))) continue
    mkdirSync(dir, { recursive: true })
    writeFileSync(join(dir, ANCHOR_NAME), text)
  }
}
