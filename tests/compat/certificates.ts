import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ensureLocalCa } from '../../packages/edge/src/local-ca.ts'
import { run } from '../../packages/host/src/linux/process.ts'
import { DOMAIN, SITES } from './plan.ts'

/** Authorities are made once and kept: the templates that trust them are kept, too. */
export interface Certificates {
  /** Authority of the internet's web servers. */
  readonly internetCa: string
  readonly internet: { readonly key: string; readonly cert: string }
  /** Authority of the server's TLS listener. */
  readonly edgeCa: string
}

const EC_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
const TEN_YEARS_DAYS = '3650'

export async function ensureCertificates(workDir: string): Promise<Certificates> {
  const dir = join(workDir, 'internet')
  const path = (name: string): string => join(dir, name)
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  if (!existsSync(path('site.pem'))) {
    const ca = ['req', '-x509', ...EC_KEY, '-days', TEN_YEARS_DAYS, '-subj', '/CN=Internet of the tests']
    await run('openssl', [...ca, '-keyout', path('ca.key'), '-out', path('ca.pem')])
    const subjects = SITES.flatMap(({ name, address }) => [`DNS:${name}`, `IP:${address}`])
    const request = ['req', ...EC_KEY, '-subj', '/CN=sites']
    await run('openssl', [...request, '-keyout', path('site.key'), '-out', path('site.csr')])
    writeFileSync(path('site.ext'), `subjectAltName=${subjects.join(',')}\n`)
    const sign = ['x509', '-req', '-in', path('site.csr'), '-CA', path('ca.pem'), '-CAkey', path('ca.key')]
    const days = ['-CAcreateserial', '-days', TEN_YEARS_DAYS, '-extfile', path('site.ext')]
    await run('openssl', [...sign, ...days, '-out', path('site.pem')])
  }
  const edge = await ensureLocalCa({ dir: join(workDir, 'tls'), domain: DOMAIN })
  const read = (name: string): string => readFileSync(path(name), 'utf8')
  return {
    internetCa: read('ca.pem'),
    internet: { key: read('site.key'), cert: read('site.pem') },
    edgeCa: edge.caCertPem,
  }
}

/** Gives a server the listener's identity that the templates trust. */
export function installEdgeIdentity(workDir: string, stateDir: string): void {
  cpSync(join(workDir, 'tls'), join(stateDir, 'tls'), { recursive: true })
}
