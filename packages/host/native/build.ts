import { mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../src/linux/process.ts'

export interface NativeBuildOptions {
  /** Gets the result. Made if missing. */
  outDir: string
  compiler?: string
}

/** Compiles the shim, statically, in about a second. Answers its path. Throws with the compiler's words. */
export const buildShim = (options: NativeBuildOptions): Promise<string> =>
  compile(options, 'shim.c', 'shim', ['-static'])

/** Compiles what an older QEMU is started with to share memory. Answers its path. Throws with the compiler's words. */
export const buildOpenReadOnly = (options: NativeBuildOptions): Promise<string> =>
  compile(options, 'open-read-only.c', 'open-read-only.so', ['-shared', '-fPIC'])

/** Compiles what shows a file to a jailed monitor, statically. Answers its path. Throws with the compiler's words. */
export const buildMountInto = (options: NativeBuildOptions): Promise<string> =>
  compile(options, 'mount-into.c', 'mount-into', ['-static'])

async function compile(
  options: NativeBuildOptions,
  source: string,
  name: string,
  kind: readonly string[],
): Promise<string> {
  mkdirSync(options.outDir, { recursive: true })
  const path = join(options.outDir, name)
  const unfinished = `${path}.${process.pid}`
  const flags = [...kind, '-Os', '-s', '-Wall', '-Wextra', '-Werror', '-o', unfinished]
  await run(options.compiler ?? 'gcc', [...flags, join(import.meta.dirname, source)])
  // A running program keeps the old file.
  renameSync(unfinished, path)
  return path
}
