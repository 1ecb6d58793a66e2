import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

const TIMEOUT_MS = 120_000

/** Runs a tool of this machine and returns its output. @throws Error with what it wrote when it fails */
export async function run(command: string, args: readonly string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(command, args, {
    timeout: TIMEOUT_MS,
    maxBuffer: 16 * 1024 * 1024,
  })
  return stdout
}
