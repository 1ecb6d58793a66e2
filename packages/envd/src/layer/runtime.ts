import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { chmod, copyFile, mkdir, realpath, rename, rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { run } from './run.ts'

/** Where the runtime lies in every sandbox. */
export const AGENT_DIR = '/.e2b'
const LOADER = 'ld-linux-x86-64.so.2'

/** SHA-256 of a file, in hex. */
export async function fileDigest(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk)
  return hash.digest('hex')
}

/**
 * Files of this machine's C library that the programs need, real path by the name they are loaded by.
 *
 * @throws Error when one is missing on this machine
 */
export async function sharedLibraries(programs: readonly string[]): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>()
  for (const program of programs) {
    for (const line of (await run('ldd', [program])).split('\n')) {
      const [, file] = /(?:=>\s*)?(\/\S+)\s+\(0x/.exec(line) ?? []
      if (file) found.set(basename(file), await realpath(file))
      else if (line.includes('not found')) throw new Error(`${program}: ${line.trim()}`)
    }
  }
  if (!found.has(LOADER)) throw new Error(`no ${LOADER} among the libraries of ${programs.join(', ')}`)
  return new Map([...found].sort(([left], [right]) => (left < right ? -1 : 1)))
}

/**
 * A copy of `node` without symbols that uses the loader and libraries of the agent's layer, kept in `cacheDir`.
 * Returns its path.
 */
export async function portableNode(node: string, digest: string, cacheDir: string): Promise<string> {
  const target = join(cacheDir, `node-${digest.slice(0, 16)}`)
  const exists = await realpath(target).catch(() => undefined)
  if (exists) return target
  await mkdir(cacheDir, { recursive: true })
  const next = `${target}.${process.pid}.next`
  try {
    await copyFile(node, next)
    await chmod(next, 0o755)
    await run('strip', ['--strip-all', next])
    const paths = [
      '--set-interpreter',
      `${AGENT_DIR}/lib/${LOADER}`,
      '--force-rpath',
      '--set-rpath',
      `${AGENT_DIR}/lib`,
    ]
    await run('patchelf', [...paths, next])
    await rename(next, target)
  } finally {
    await rm(next, { force: true })
  }
  return target
}
