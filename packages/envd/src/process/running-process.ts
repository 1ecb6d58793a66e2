import { setTimeout as delay } from 'node:timers/promises'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { Code, ConnectError } from '@connectrpc/connect'
import type { ProcessEventSchema } from '@sandbox/contract/gen/process/process_pb'
import { errorText } from '../system/error-text.ts'
import { resizeTerminal } from '../system/kernel.ts'
import { type ExitStatus, exitStatus } from './exit-status.ts'
import type { Launched } from './launch.ts'
import { Subscription } from './subscription.ts'

export type ProcessEvent = MessageInitShape<typeof ProcessEventSchema>
/** What the client asked for, as `List` shows it. */
export interface ProcessRequest {
  readonly cmd: string
  readonly args: readonly string[]
  readonly envs: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly tag?: string
}
type Channel = 'stdout' | 'stderr' | 'pty'

const CHUNK_BYTES = { stdout: 32 * 1024, stderr: 32 * 1024, pty: 16 * 1024 } as const
/** A descendant may keep the output open after the process ended: silence of this length ends the wait for it. */
const DRAIN_SILENCE_MS = 1000
/** The same after an order to die, when nobody waits for more output. */
const KILLED_DRAIN_SILENCE_MS = 20
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** A started process: its output goes to every subscriber, its end is announced once all output was. */
export class RunningProcess {
  readonly pid: number
  readonly request: ProcessRequest
  /** Resolves when the end has been announced. */
  readonly ended: Promise<ExitStatus>
  readonly #launched: Launched
  readonly #subscriptions = new Set<Subscription<ProcessEvent>>()
  #resolveEnded: (status: ExitStatus) => void = () => {}
  #openOutputs = 0
  #exit: ExitStatus | undefined
  #finished = false
  #killed = false
  #stdinClosed: boolean
  #paused = false
  #drainTimer: NodeJS.Timeout | undefined
  #drainLook: NodeJS.Immediate | undefined
  #deadlineTimer: NodeJS.Timeout | undefined

  constructor(launched: Launched, request: ProcessRequest) {
    this.pid = launched.child.pid
    this.request = request
    this.#launched = launched
    this.#stdinClosed = launched.stdin === undefined
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve
    })
    void launched.child.exited.then((status) => {
      this.#exit = exitStatus(status)
      this.#settle()
    })
    launched.stdin?.on('error', () => {
      this.#stdinClosed = true
    })
    this.#attach('stdout', launched.stdout)
    this.#attach('stderr', launched.stderr)
    this.#attach('pty', launched.terminal)
  }

  /** Every later event, up to and including the end. */
  subscribe(): Subscription<ProcessEvent> {
    const subscription: Subscription<ProcessEvent> = new Subscription(
      () => this.#applyFlow(),
      () => {
        this.#subscriptions.delete(subscription)
        this.#applyFlow()
      },
    )
    this.#subscriptions.add(subscription)
    return subscription
  }

  /** Kills the process after `timeoutMs` and fails `starter` with deadline_exceeded, whatever else happens. */
  limitTo(timeoutMs: number, starter: Subscription<ProcessEvent>): void {
    if (timeoutMs > LONGEST_TIMER_MS) return
    this.#deadlineTimer = setTimeout(() => {
      starter.fail(new ConnectError('context deadline exceeded', Code.DeadlineExceeded))
      this.kill('SIGKILL')
    }, timeoutMs)
  }

  /** Signals the process itself, not its group. */
  kill(signal: 'SIGKILL' | 'SIGTERM'): void {
    this.#killed = true
    if (this.#exit) this.#awaitSilence()
    else this.#launched.child.kill(signal)
  }

  /** Ends it, and resolves when it is gone, so that who asks next does not find it; after `withinMs` at the latest. */
  async killed(withinMs: number): Promise<void> {
    this.kill('SIGKILL')
    const late = new AbortController()
    const timeout = delay(withinMs, undefined, { signal: late.signal }).catch(() => {})
    await Promise.race([this.#launched.child.exited, timeout])
    late.abort()
  }

  /** Resolves when the pipe has taken the bytes. @throws Error when stdin is closed, off, or a terminal */
  writeStdin(data: Uint8Array): Promise<void> {
    const { stdin, terminal } = this.#launched
    if (terminal) {
      throw new Error('tty assigned to process — input should be written to the pty, not the stdin')
    }
    if (!stdin || this.#stdinClosed) throw new Error('stdin not enabled or closed')
    return this.#write(stdin, data, 'stdin')
  }

  /** Resolves when the terminal has taken the bytes. @throws Error when the process has none */
  writeTerminal(data: Uint8Array): Promise<void> {
    const { terminal } = this.#launched
    if (!terminal) {
      throw new Error('tty not assigned to process — input should be written to the stdin, not the tty')
    }
    return this.#write(terminal, data, 'tty')
  }

  /** Ends the input. Idempotent. @throws Error for a terminal */
  closeStdin(): void {
    if (this.#launched.terminal) {
      throw new Error('cannot close stdin for PTY process — send Ctrl+D (0x04) instead')
    }
    this.#stdinClosed = true
    this.#launched.stdin?.end()
  }

  /** Sizes in characters. @throws Error without a terminal */
  resize(size: { cols: number; rows: number }): void {
    const terminal = this.#launched.terminal
    if (!terminal) throw new Error('tty not assigned to process')
    resizeTerminal(terminalDescriptor(terminal), size)
  }

  #write(stream: NodeJS.WritableStream, data: Uint8Array, name: string): Promise<void> {
    if (data.length === 0) return Promise.resolve()
    return new Promise((resolve, reject) => {
      stream.write(data, (error) => {
        if (!error) return resolve()
        reject(new Error(`error writing to ${name} of process '${this.pid}': ${errorText(error)}`))
      })
    })
  }

  #attach(channel: Channel, stream: Launched['stdout'] | Launched['terminal']): void {
    if (!stream) return
    this.#openOutputs++
    stream.on('data', (chunk: Buffer) => this.#publish(channel, chunk))
    stream.on('error', () => stream.destroy())
    stream.once('close', () => {
      this.#openOutputs--
      this.#settle()
    })
  }

  #publish(channel: Channel, chunk: Buffer): void {
    if (this.#finished) return
    if (this.#exit) this.#awaitSilence()
    if (this.#subscriptions.size === 0) return
    for (let at = 0; at < chunk.length; at += CHUNK_BYTES[channel]) {
      const value = chunk.subarray(at, at + CHUNK_BYTES[channel])
      const event: ProcessEvent = { event: { case: 'data', value: { output: { case: channel, value } } } }
      for (const subscription of this.#subscriptions) subscription.push(event, value.length)
    }
    this.#applyFlow()
  }

  /** The slowest reader decides: while one queue is full, nothing is read and the process feels a full pipe. */
  #applyFlow(): void {
    const pause = !this.#finished && [...this.#subscriptions].some((subscription) => subscription.isFull)
    if (pause === this.#paused) return
    this.#paused = pause
    const { stdout, stderr, terminal } = this.#launched
    for (const stream of [stdout, stderr, terminal]) {
      if (pause) stream?.pause()
      else stream?.resume()
    }
  }

  #settle(): void {
    if (!this.#exit || this.#finished) return
    if (this.#openOutputs === 0) this.#finish(this.#exit)
    else this.#awaitSilence()
  }

  /**
   * Timers come before reads: of an agent that was busy, or paused with its sandbox, for as long, this one ends though
   * output lies in the pipe. It is read before the immediate, and then the silence begins anew.
   */
  #awaitSilence(): void {
    this.#stopDrain()
    const silenceMs = this.#killed ? KILLED_DRAIN_SILENCE_MS : DRAIN_SILENCE_MS
    const end = (): void => {
      if (this.#paused) this.#awaitSilence()
      else if (this.#exit) this.#finish(this.#exit)
    }
    this.#drainTimer = setTimeout(() => {
      this.#drainLook = setImmediate(end)
    }, silenceMs)
  }

  #stopDrain(): void {
    clearTimeout(this.#drainTimer)
    clearImmediate(this.#drainLook)
  }

  /** A descendant that still writes is read and discarded, so that it is not ended by a broken pipe. */
  #finish(exit: ExitStatus): void {
    if (this.#finished) return
    this.#finished = true
    this.#stopDrain()
    clearTimeout(this.#deadlineTimer)
    const event: ProcessEvent = { event: { case: 'end', value: { ...exit } } }
    this.#resolveEnded(exit)
    for (const subscription of this.#subscriptions) {
      subscription.push(event)
      subscription.end()
    }
    this.#applyFlow()
    this.#stdinClosed = true
    this.#launched.stdin?.destroy()
    this.#launched.terminal?.destroy()
  }
}

function terminalDescriptor(terminal: object): number {
  const handle = '_handle' in terminal ? terminal._handle : undefined
  const fd = handle && typeof handle === 'object' && 'fd' in handle ? handle.fd : undefined
  if (typeof fd !== 'number') throw new Error('tty is closed')
  return fd
}
