import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { errorCode } from './libc.ts'

/**
 * When a process started, in clock ticks since boot; with its pid it names one process until the next boot.
 * Undefined when there is none, or when it has ended and is only waiting to be reaped.
 */
export function processStartTime(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The command name is in parentheses and may hold anything, also spaces and parentheses.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const [state] = fields
    return state === 'Z' || state === 'X' ? undefined : Number(fields[19])
  } catch (error) {
    if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ESRCH') return undefined
    throw error
  }
}

/** Whether the process that had `pid` and `startTime` (see `processStartTime`) still runs. */
export function alive(pid: number, startTime: number): boolean {
  return processStartTime(pid) === startTime
}

export interface RunOptions {
  stdin?: string
  cwd?: string
  env?: Record<string, string>
  /** Default 30,000. The process is killed when it is over. */
  timeoutMs?: number
  /** Most bytes kept of stdout and of stderr; the rest is read and dropped. Default 1 MiB. */
  maxOutputBytes?: number
  /** Exit statuses that are no failure. Default 0 alone. */
  passes?: readonly number[]
}

export interface RunResult {
  stdout: string
  stderr: string
}

/** A command that ended with a status that is a failure, or by a signal. */
export class CommandError extends Error {
  readonly command: string
  /** Exit status, or undefined when a signal (also the timeout's) ended it. */
  readonly status: number | undefined
  readonly stderr: string

  constructor(command: string, status: number | undefined, reason: string, stderr: string) {
    super(`${command}: ${reason}${stderr === '' ? '' : `: ${stderr.trim().slice(0, 2_000)}`}`)
    this.name = 'CommandError'
    this.command = command
    this.status = status
    this.stderr = stderr
  }
}

/** Runs a program without a shell and waits for it. Throws CommandError, or Node's ENOENT when there is none. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const timeoutMs = options.timeoutMs ?? 30_000
  const maxOutputBytes = options.maxOutputBytes ?? 1024 * 1024
  const passes = options.passes ?? [0]
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
      ...(options.env === undefined ? {} : { env: options.env }),
    })
    let timedOut = false
    const timer = setTimeout(() => {
      timedOut = true
      child.kill('SIGKILL')
    }, timeoutMs)
    child.on('error', (error) => {
      clearTimeout(timer)
      reject(error)
    })
    // Without a descriptor left there is a child, and an error to come, but no streams.
    if (!child.stdin) return
    const stdout = collected(child.stdout, maxOutputBytes)
    const stderr = collected(child.stderr, maxOutputBytes)
    child.on('close', (status, signal) => {
      clearTimeout(timer)
      if (status !== null && passes.includes(status)) return resolve({ stdout: stdout(), stderr: stderr() })
      const reason = timedOut
        ? `no end after ${timeoutMs} ms`
        : signal
          ? `killed by ${signal}`
          : `exit ${status}`
      reject(new CommandError([command, ...args].join(' '), status ?? undefined, reason, stderr()))
    })
    // A program that ends without reading its input is judged by its status, not by EPIPE.
    child.stdin.on('error', () => {})
    child.stdin.end(options.stdin ?? '')
  })
}

function collected(stream: NodeJS.ReadableStream, maxBytes: number): () => string {
  const chunks: Buffer[] = []
  let bytes = 0
  stream.on('data', (chunk: Buffer) => {
    if (bytes < maxBytes) chunks.push(chunk.subarray(0, maxBytes - bytes))
    bytes += chunk.length
  })
  return () => Buffer.concat(chunks).toString('utf8')
}
