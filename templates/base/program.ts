/** Runs a program of the host and waits for its end. */
import { spawn } from 'node:child_process'

export interface ProgramOptions {
  onLine?: (line: string) => unknown
  /** Replaces the environment. */
  env?: Record<string, string>
  signal?: AbortSignal
}

const TAIL_CHARACTERS = 4000

/**
 * Resolves to the standard output.
 * @throws Error with the last lines of output when the program is missing, fails or is aborted
 */
export function runProgram(name: string, args: readonly string[], options: ProgramOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(name, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(options.env === undefined ? {} : { env: options.env }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    })
    let output = ''
    let tail = ''
    let line = ''
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
    const follow = (chunk: Buffer): void => {
      tail = (tail + chunk.toString()).slice(-TAIL_CHARACTERS)
      const lines = (line + chunk.toString()).split('\n')
      line = lines.pop() ?? ''
      for (const complete of lines) options.onLine?.(complete)
    }
    child.stdout.on('data', follow)
    child.stderr.on('data', follow)
    child.on('error', (error) => reject(new Error(`${name}: ${error.message}`)))
    child.on('close', (code) => {
      if (code === 0) resolve(output)
      else reject(new Error(`${name} failed (${code}):\n${tail}`))
    })
  })
}
