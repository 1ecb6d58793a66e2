import { mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../src/linux/process.ts'

export interface ShimBuildOptions {
  /** Gets `shim`. Made if missing. */
  outDir: string
  compiler?: string
}

/** Compiles the shim, statically, in about a second. Answers its path. Throws with the compiler's words. */
export async function buildShim(options: ShimBuildOptions): Promise<string> {
  mkdirSync(options.outDir, { recursive: true })
  const source = join(import.meta.dirname, 'shim.c')
  const path = join(options.outDir, 'shim')
  const unfinished = `${path}.${process.pid}`
  const flags = ['-static', '-Os', '-s', '-Wall', '-Wextra', '-Werror', '-o', unfinished, source]
  await run(options.compiler ?? 'gcc', flags)
  // A running shim keeps the old file.
  renameSync(unfinished, path)
  return path
}
