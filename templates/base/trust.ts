/** Certificates that the host trusts and Debian does not know. */
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g
const MAX_CERTIFICATES = 1000

/**
 * Puts the certificates of the bundle that the root directory does not trust yet where `update-ca-certificates`
 * finds them. Returns how many there were; run that program if any.
 */
export async function trustCertificates(rootDir: string, bundlePath: string): Promise<number> {
  const known = new Set(await certificatesIn(join(rootDir, 'etc/ssl/certs/ca-certificates.crt')))
  const added = (await certificatesIn(bundlePath)).filter((certificate) => !known.has(certificate))
  if (added.length > MAX_CERTIFICATES) throw new RangeError(`${bundlePath} holds too many certificates`)
  const directory = join(rootDir, 'usr/local/share/ca-certificates')
  await mkdir(directory, { recursive: true })
  for (const [index, certificate] of added.entries()) {
    await writeFile(join(directory, `host-${index + 1}.crt`), `${certificate}\n`)
  }
  return added.length
}

/** Normalized, so that equal certificates are equal strings. */
async function certificatesIn(path: string): Promise<string[]> {
  const text = await readFile(path, 'utf8')
  return [...text.matchAll(CERTIFICATE)].map(([pem]) => pem.replaceAll('\r', ''))
}
