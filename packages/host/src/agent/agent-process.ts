import { Agent } from 'node:http'
import { Code, ConnectError, createClient } from '@connectrpc/connect'
import { createConnectTransport } from '@connectrpc/connect-node'
import { Process } from '@sandbox/contract/gen/process/process_pb'
import { ENVD_PORT } from '@sandbox/contract/ports'
import { HostError } from '../host-error.ts'

/** Runs commands inside a sandbox through its agent: build steps, ready commands. */

export interface Command {
  cmd: string
  args: readonly string[]
  user: string
  cwd: string
  envs: Readonly<Record<string, string>>
}

export interface CommandEnd {
  /** -1 when a signal ended it. */
  exitCode: number
  /** `exit status 1`, `signal: killed`, … */
  status: string
}

/** Called with each whole line that the command writes. */
export type LineSink = (stream: 'stdout' | 'stderr', line: string) => void

/** A line longer than this is passed on in pieces. */
const LONGEST_LINE = 16 * 1024

/**
 * Runs a command to its end.
 * @param address where this machine reaches the sandbox
 * @param signal ends it; a sandbox that is gone without a word does not
 * @throws HostError failed when the agent refuses it or the connection breaks; the reason of `signal`
 */
export async function runCommand(
  address: string,
  command: Command,
  onLine: LineSink,
  signal?: AbortSignal,
): Promise<CommandEnd> {
  const baseUrl = `http://${address}:${ENVD_PORT}`
  // Not kept, so TCP does not ask a guest that is busy with itself whether it is there.
  const transport = createConnectTransport({
    baseUrl,
    httpVersion: '1.1',
    nodeOptions: { agent: new Agent() },
  })
  const client = createClient(Process, transport)
  const { cmd, args, cwd, envs } = command
  const request = { process: { cmd, args: [...args], envs: { ...envs }, cwd }, stdin: false }
  const headers = { Authorization: `Basic ${Buffer.from(`${command.user}:`).toString('base64')}` }
  const lines = { stdout: new LineSplitter('stdout', onLine), stderr: new LineSplitter('stderr', onLine) }
  try {
    for await (const { event } of client.start(request, { headers, ...(signal ? { signal } : {}) })) {
      if (event?.event.case === 'data') {
        const { output } = event.event.value
        if (output.case === 'stdout' || output.case === 'stderr') lines[output.case].push(output.value)
      } else if (event?.event.case === 'end') {
        lines.stdout.end()
        lines.stderr.end()
        const { exitCode, status } = event.event.value
        return { exitCode, status }
      }
    }
  } catch (error) {
    signal?.throwIfAborted()
    const reason = error instanceof ConnectError ? `${Code[error.code]}: ${error.rawMessage}` : String(error)
    throw new HostError('failed', `the agent could not run '${cmd}': ${reason}`, error)
  }
  throw new HostError('failed', `the connection to the agent ended while '${cmd}' ran`)
}

class LineSplitter {
  readonly #stream: 'stdout' | 'stderr'
  readonly #sink: LineSink
  readonly #decoder = new TextDecoder()
  #rest = ''

  constructor(stream: 'stdout' | 'stderr', sink: LineSink) {
    this.#stream = stream
    this.#sink = sink
  }

  push(bytes: Uint8Array): void {
    const pieces = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split('\n')
    this.#rest = pieces.pop() ?? ''
    for (const line of pieces) this.#sink(this.#stream, line.replace(/\r$/, ''))
    while (this.#rest.length > LONGEST_LINE) {
      this.#sink(this.#stream, this.#rest.slice(0, LONGEST_LINE))
      this.#rest = this.#rest.slice(LONGEST_LINE)
    }
  }

  end(): void {
    if (this.#rest) this.#sink(this.#stream, this.#rest)
    this.#rest = ''
  }
}
