import { spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'

export interface CommandOptions {
  /** Every line of output goes here too. */
  onLine?: (line: string) => void
  /** File that receives the whole output. */
  logPath?: string
  env?: NodeJS.ProcessEnv
  cwd?: string
}

/**
 * Runs a program of the set-up without a shell.
 * @throws Error with the last lines of its output when it exits with anything but 0
 */
export async function runCommand(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  const [command, ...args] = argv as [string, ...string[]]
  const log = options.logPath ? createWriteStream(options.logPath, { flags: 'a' }) : undefined
  log?.write(`$ ${argv.join(' ')}\n`)
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let tail = ''
  let pending = ''
  const receive = (chunk: Buffer): void => {
    log?.write(chunk)
    tail = (tail + chunk.toString()).slice(-16_384)
    const lines = (pending + chunk.toString()).split('\n')
    pending = lines.pop() ?? ''
    for (const line of lines) options.onLine?.(line)
  }
  child.stdout.on('data', receive)
  child.stderr.on('data', receive)
  const status = await new Promise<number>((resolve, reject) => {
    child.on('error', (error) => reject(new Error(`${command} cannot be run: ${error.message}`)))
    child.on('close', (code) => resolve(code ?? 1))
  })
  log?.end()
  if (status !== 0) {
    const last = tail.trim().split('\n').slice(-8).join('\n')
    throw new Error(`${command} ended with status ${status}:\n${last}`)
  }
  return tail
}
