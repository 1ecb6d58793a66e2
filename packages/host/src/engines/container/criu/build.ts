/**
 * Brings CRIU to this machine: Debian's source of one pinned version with our copy-on-write change, built here in
 * about 20 s, or else the CRIU that is installed. What was built before is taken as it is.
 */
import { createHash } from 'node:crypto'
import { copyFile, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../../linux/process.ts'
import { aptMirrors } from './mirrors.ts'

const sourceVersion = '4.2.1'
const sourceFile = `criu_${sourceVersion}.orig.tar.xz`
const sourceSha256 = '29ec0ee09e296479fe7048c80980e8ef1d0684d0b0204c2b101dfea19f6725b9'
const sourcePoolPath = `pool/main/c/criu/${sourceFile}`
const patchPath = join(import.meta.dirname, 'cow.patch')
const makeTimeoutMs = 300_000
const downloadTimeoutMs = 60_000
const maxSourceBytes = 8 * 1024 * 1024
const makeJobs = 2
/** Older ones fail on current kernels (`vdso: Unexpected rt vDSO area bounds`). */
const oldestStock = [4, 1] as const

export interface CriuBuildOptions {
  /** Keeps the source archive between builds. */
  cacheDir: string
  /** Gets `criu` and `criu.json`. */
  outDir: string
  /** Debian mirrors to ask in order, without a trailing slash; default: those of apt on this machine. */
  mirrors?: readonly string[]
  progress?: (message: string) => void
}

export interface CriuBuild {
  path: string
  /** `cow` maps page images copy-on-write (see README.md); `stock` copies them. */
  kind: 'cow' | 'stock'
  /** Goes into the host class: memory written by one version is restored only by the same, e.g. `4.2.1+cow.d69c4c38`. */
  version: string
  /** Why it is not `cow`; undefined when it is. */
  reason?: string
}

/**
 * The best CRIU there can be on this machine. Throws when neither a build nor an installed CRIU of at least 4.1
 * passes `criu check`; the message says what is missing.
 */
export async function buildCriu(options: CriuBuildOptions): Promise<CriuBuild> {
  const progress = options.progress ?? (() => {})
  try {
    return await builtCriu(options, progress)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    progress(`CRIU with copy-on-write could not be built: ${reason}`)
    return stockCriu(reason)
  }
}

async function builtCriu(options: CriuBuildOptions, progress: (message: string) => void): Promise<CriuBuild> {
  const patchSha256 = createHash('sha256')
    .update(await readFile(patchPath))
    .digest('hex')
  const version = `${sourceVersion}+cow.${patchSha256.slice(0, 8)}`
  const build: CriuBuild = { path: join(options.outDir, 'criu'), kind: 'cow', version }
  if (await isBuilt(options.outDir, version)) return build

  const archive = await sourceArchive(options, progress)
  await removeInterrupted(options.cacheDir)
  const tree = await mkdtemp(join(options.cacheDir, 'criu-build-'))
  try {
    await run('tar', ['-xJf', archive, '--strip-components=1', '-C', tree])
    await run('patch', ['-p1', '--batch', '--silent', '-i', patchPath], { cwd: tree })
    progress(`building CRIU ${version}`)
    // The number marks kerndat caches: one that another build wrote is not read.
    const epoch = `SOURCE_DATE_EPOCH=${Number.parseInt(patchSha256.slice(0, 7), 16)}`
    const make = ['make', `-j${makeJobs}`, 'criu', 'NO_GNUTLS=1', 'WERROR=0', 'RUNDIR=/run']
    // An interrupted set-up must not go on compiling.
    const contained = ['--pdeathsig', 'KILL', 'env', epoch, ...make]
    await run('setpriv', contained, { cwd: tree, timeoutMs: makeTimeoutMs })
    const binary = join(tree, 'criu', 'criu')
    await run('strip', [binary])
    await checkCriu(binary)
    await publish(binary, options.outDir, version)
  } finally {
    await rm(tree, { recursive: true, force: true })
  }
  progress(`built CRIU ${version}`)
  return build
}

/** Trees that an interrupted build left; the set-up's lock keeps a second build away. */
async function removeInterrupted(cacheDir: string): Promise<void> {
  for (const name of await readdir(cacheDir)) {
    if (name.startsWith('criu-build-')) await rm(join(cacheDir, name), { recursive: true, force: true })
  }
}

async function isBuilt(outDir: string, version: string): Promise<boolean> {
  try {
    await stat(join(outDir, 'criu'))
    return (await readFile(join(outDir, 'criu.json'), 'utf8')) === stamp(version)
  } catch {
    return false
  }
}

function stamp(version: string): string {
  return `${JSON.stringify({ version })}\n`
}

/** The stamp comes last: a binary without it is built again. */
async function publish(binary: string, outDir: string, version: string): Promise<void> {
  await mkdir(outDir, { recursive: true })
  const stampPath = join(outDir, 'criu.json')
  await rm(stampPath, { force: true })
  await copyFile(binary, join(outDir, 'criu.new'))
  await rename(join(outDir, 'criu.new'), join(outDir, 'criu'))
  await writeFile(stampPath, stamp(version))
}

async function sourceArchive(
  options: CriuBuildOptions,
  progress: (message: string) => void,
): Promise<string> {
  const path = join(options.cacheDir, sourceFile)
  await mkdir(options.cacheDir, { recursive: true })
  if (await hasDigest(path)) return path
  const failures: string[] = []
  for (const mirror of options.mirrors ?? (await aptMirrors())) {
    const url = `${mirror}/${sourcePoolPath}`
    progress(`downloading ${url}`)
    try {
      await download(url, path)
      return path
    } catch (error) {
      failures.push(`${url}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }
  throw new Error(`no source archive: ${failures.join('; ')}`)
}

async function hasDigest(path: string): Promise<boolean> {
  try {
    return sha256(await readFile(path)) === sourceSha256
  } catch {
    return false
  }
}

async function download(url: string, path: string): Promise<void> {
  const response = await fetch(url, { signal: AbortSignal.timeout(downloadTimeoutMs) })
  if (!response.ok) throw new Error(`HTTP status ${response.status}`)
  if (Number(response.headers.get('content-length') ?? 0) > maxSourceBytes) throw new Error('far too large')
  const bytes = Buffer.from(await response.arrayBuffer())
  if (sha256(bytes) !== sourceSha256) throw new Error('not the pinned archive (its sha256 differs)')
  await writeFile(`${path}.new`, bytes)
  await rename(`${path}.new`, path)
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

async function stockCriu(reason: string): Promise<CriuBuild> {
  const { stdout } = await run('criu', ['--version']).catch(() => ({ stdout: '' }))
  const version = /^Version: (\S+)/m.exec(stdout)?.[1]
  if (version === undefined) throw new Error(`no CRIU: none is installed, and none was built: ${reason}`)
  const [major = 0, minor = 0] = version.split('.').map(Number)
  if (major < oldestStock[0] || (major === oldestStock[0] && minor < oldestStock[1]))
    throw new Error(`no CRIU: ${version} is installed, 4.1 is the oldest that works; not built: ${reason}`)
  await checkCriu('criu')
  return { path: 'criu', kind: 'stock', version, reason }
}

/** `criu check` asks the kernel for everything a dump and a restore need. */
async function checkCriu(binary: string): Promise<void> {
  await run(binary, ['check'])
}
