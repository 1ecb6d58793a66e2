/**
 * A context: one kernel process, its working directory and variables. Executions run one at a time, in the
 * order of their calls. Whatever happens to the kernel or the connection, an execution ends with an error, never
 * with silence.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { Execution, type ExecutionOutput } from './execution.ts'
import type { JupyterClient } from './jupyter.ts'
import { KernelChannel } from './kernel-channel.ts'
import { type Language, languageFor, type Preparation } from './languages.ts'
import type { SandboxEnvironment } from './sandbox-environment.ts'
import { syntheticError } from './stream-message.ts'

export interface ExecutionRequest {
  code: string
  /** Variables for this execution alone. */
  env: Record<string, string>
  /** The agent's token that came with the request; used once, never kept. */
  accessToken: string | undefined
}

export interface ContextInfo {
  /** Id of the Jupyter kernel. */
  id: string
  language: string
  cwd: string
}

interface SandboxVariables {
  /** Of the sandbox when it was asked. */
  generation: string
  values: Record<string, string>
}

/** After these delays an abandoned execution that still runs is interrupted again. */
const INTERRUPT_DELAYS_MS = [0, 200, 500, 1000, 3000]
/** So long an interrupt waits for the kernel to come to the execution. */
const UNTIL_TAKEN_UP_MS = 2000

/** How long a kernel that starts has to listen and to answer, and how it is looked for meanwhile. */
const START_TIMEOUT_MS = 60_000
const CONNECT_RETRY_MS = 20
const PROBE_TIMEOUT_MS = 100
const MAX_PROBE_TIMEOUT_MS = 2000
const KERNEL_CHECK_MS = 1000

const RESTARTED = syntheticError('ContextRestarting', 'Context was restarted')
const REMOVED = syntheticError(
  'UnexpectedEndOfExecution',
  'The context was removed before the execution ended',
)
const CONNECTION_LOST = syntheticError(
  'WebSocketError',
  'The connection to the kernel was lost, run the code again to get its results',
)
const NOT_SENT = syntheticError('WebSocketError', 'Failed to send the execution request to the kernel')

export class Context {
  readonly info: ContextInfo
  readonly #jupyter: JupyterClient
  readonly #environment: SandboxEnvironment
  readonly #language: Language
  readonly #isKernelKnown: (context: Context) => Promise<boolean>
  #channel: KernelChannel | undefined
  #running: Execution | undefined
  #tail: Promise<unknown> = Promise.resolve()
  #restart: Promise<void> | undefined
  #isRemoved = false
  #isUnproven = true
  #hasFreshProcess = true
  #executions = 0
  #channels = 0
  /** Sandbox-wide variables as last set in the kernel, and the generation they belong to. */
  #variables: Record<string, string> = {}
  #variablesGeneration: string | undefined
  #seedGeneration: string

  constructor(
    info: ContextInfo,
    jupyter: JupyterClient,
    environment: SandboxEnvironment,
    isKernelKnown: (context: Context) => Promise<boolean>,
  ) {
    this.info = info
    this.#jupyter = jupyter
    this.#environment = environment
    this.#language = languageFor(info.language)
    this.#isKernelKnown = isKernelKnown
    this.#seedGeneration = environment.generation()
  }

  /** Waits until the kernel answers, with its working directory set. Rejects when it cannot be reached. */
  async warmUp(): Promise<void> {
    await this.#serially(async () => {
      const channel = await this.#open()
      const code = [this.#language.prepare({ cwd: this.info.cwd }), this.#language.warm ?? '']
        .join('\n')
        .trim()
      this.#hasFreshProcess = false
      if (code !== '') await this.#runSilently(channel, code)
    })
  }

  /**
   * Runs code and writes its messages to `output`; the caller ends the stream. Never rejects: what goes wrong
   * is written as an error. When `signal` aborts, the kernel is interrupted, so that the next one can run.
   */
  execute(request: ExecutionRequest, output: ExecutionOutput, signal: AbortSignal): Promise<void> {
    return this.#serially(async () => {
      if (signal.aborted) return
      if (this.#isRemoved) return void output.write(REMOVED)
      try {
        const { channel, variables } = await this.#ready(request.accessToken)
        if (signal.aborted) return
        // From here to the request nothing is waited for: it goes to the very process that was prepared.
        this.#prepare(channel, request.env, variables)
        await this.#run(channel, request, output, signal)
      } catch {
        output.write(NOT_SENT)
      }
    })
  }

  /** A new kernel process under the same id; the running execution ends with an error. */
  restart(): Promise<void> {
    this.#restart ??= this.#replaceProcess().finally(() => {
      this.#restart = undefined
    })
    return this.#restart
  }

  /** Ends the kernel and whatever runs in it. */
  async remove(): Promise<void> {
    this.#isRemoved = true
    this.#running?.fail(REMOVED)
    this.#closeChannel()
    await this.#jupyter.removeKernel(this.info.id)
  }

  /** Lets go of a kernel that is gone, without a word to Jupyter Server. */
  abandon(): void {
    this.#isRemoved = true
    this.#running?.fail(CONNECTION_LOST)
    this.#closeChannel()
  }

  async #replaceProcess(): Promise<void> {
    this.#running?.fail(RESTARTED)
    this.#closeChannel()
    await this.#jupyter.restartKernel(this.info.id)
    this.#forgetProcess()
  }

  #serially<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(task)
    this.#tail = result.catch(() => undefined)
    return result
  }

  /** A channel whose kernel answers. Rejects when there is none in time, or Jupyter Server has given it up. */
  async #open(): Promise<KernelChannel> {
    await this.#restart
    const end = performance.now() + START_TIMEOUT_MS
    let nextCheck = performance.now() + KERNEL_CHECK_MS
    let probeTimeoutMs = PROBE_TIMEOUT_MS
    while (!this.#isRemoved && performance.now() < end) {
      const channel = await this.#connect()
      if (channel !== undefined && !this.#isUnproven) return channel
      if (channel === undefined) {
        await delay(CONNECT_RETRY_MS)
      } else if (await this.#answers(channel, probeTimeoutMs)) {
        this.#isUnproven = false
        return channel
      } else {
        probeTimeoutMs = Math.min(2 * probeTimeoutMs, MAX_PROBE_TIMEOUT_MS)
      }
      if (performance.now() < nextCheck) continue
      if (!(await this.#isKernelKnown(this))) break
      nextCheck = performance.now() + KERNEL_CHECK_MS
    }
    throw new Error('the kernel does not answer')
  }

  /** True when the kernel has published something that belongs to a request: only then nothing is missed. */
  async #answers(channel: KernelChannel, timeoutMs: number): Promise<boolean> {
    const probe = this.#silentExecution(channel, '')
    await probe.finishedWithin(timeoutMs)
    probe.fail(NOT_SENT)
    return probe.isIdle
  }

  /** The channel to the kernel's process, or undefined while that does not listen. */
  async #connect(): Promise<KernelChannel | undefined> {
    if (this.#channel?.isOpen) return this.#channel
    this.#channels += 1
    let channel: KernelChannel | undefined
    try {
      channel = await KernelChannel.open(
        this.#jupyter.connectionFile(this.info.id),
        `interpreter-${this.#channels}`,
        {
          onMessage: (message) => {
            if (message.parentId === this.#running?.id) this.#running?.receive(message)
          },
          onClose: () => {
            if (channel !== undefined && this.#channel === channel) this.#lose()
          },
        },
      )
    } catch {
      return undefined
    }
    this.#channel = channel
    return channel
  }

  /** The process behind the channel is gone. Jupyter Server starts another one in its place, if it lives itself. */
  #lose(): void {
    const interrupted = this.#running
    this.#channel = undefined
    this.#forgetProcess()
    void this.#isKernelKnown(this).then((isKnown) => {
      if (isKnown) interrupted?.fail(RESTARTED)
    })
  }

  #closeChannel(): void {
    const channel = this.#channel
    this.#channel = undefined
    channel?.close()
  }

  /** A channel, and what its process has to learn of the sandbox. A process that is replaced meanwhile is not taken. */
  async #ready(
    accessToken: string | undefined,
  ): Promise<{ channel: KernelChannel; variables: SandboxVariables | undefined }> {
    for (;;) {
      const channel = await this.#open()
      const variables = await this.#unknownVariables(accessToken)
      if (channel.isOpen) return { channel, variables }
    }
  }

  /** Undefined where the kernel has them already, or the agent does not give them. */
  async #unknownVariables(accessToken: string | undefined): Promise<SandboxVariables | undefined> {
    const generation = this.#environment.generation()
    if (this.#variablesGeneration === generation) return undefined
    const values = await this.#environment.variables(accessToken)
    return values && { generation, values }
  }

  #prepare(
    channel: KernelChannel,
    runEnv: Record<string, string>,
    variables: SandboxVariables | undefined,
  ): void {
    const preparation: Preparation = {}
    const generation = this.#environment.generation()
    if (this.#seedGeneration !== generation) preparation.reseed = true
    if (this.#hasFreshProcess) preparation.cwd = this.info.cwd
    if (variables !== undefined) {
      preparation.env = this.#changedVariables(variables.values)
      this.#variables = variables.values
      this.#variablesGeneration = variables.generation
    }
    if (Object.keys(runEnv).length > 0) preparation.runEnv = runEnv
    this.#seedGeneration = generation
    this.#hasFreshProcess = false
    if (Object.keys(preparation).length === 0) return
    const code = this.#language.prepare(preparation)
    // Not waited for: the kernel takes its requests in order.
    if (code !== '') channel.execute(this.#nextId(), code, true)
  }

  /** What the user changed in the kernel stays, unless the sandbox-wide value itself has changed. */
  #changedVariables(variables: Record<string, string>): Record<string, string> {
    return Object.fromEntries(
      Object.entries(variables).filter(([name, value]) => this.#variables[name] !== value),
    )
  }

  async #run(
    channel: KernelChannel,
    request: ExecutionRequest,
    output: ExecutionOutput,
    signal: AbortSignal,
  ): Promise<void> {
    const execution = new Execution(this.#nextId(), output, channel)
    let interrupted: Promise<void> | undefined
    const interrupt = () => {
      interrupted = this.#interrupt(execution)
    }
    this.#running = execution
    signal.addEventListener('abort', interrupt)
    try {
      channel.execute(execution.id, request.code, false)
      await execution.finished
      // One that is under way is meant for this execution, not for what the kernel does next.
      await interrupted
    } finally {
      signal.removeEventListener('abort', interrupt)
      this.#running = undefined
    }
    const code = Object.keys(request.env).length > 0 ? this.#language.restore(request.env) : ''
    if (code !== '') channel.execute(this.#nextId(), code, true)
  }

  async #runSilently(channel: KernelChannel, code: string): Promise<void> {
    const execution = this.#silentExecution(channel, code)
    await execution.finished
    if (execution.failure !== undefined) throw new Error(execution.failure.value)
  }

  #silentExecution(channel: KernelChannel, code: string): Execution {
    const execution = new Execution(this.#nextId(), { write: () => true, onDrain: () => undefined }, channel)
    this.#running = execution
    void execution.finished.then(() => {
      if (this.#running === execution) this.#running = undefined
    })
    channel.execute(execution.id, code, true)
    return execution
  }

  /** What was sent before the execution, as the seeds of a copy, is not interrupted in its place. */
  async #interrupt(execution: Execution): Promise<void> {
    await execution.takenUpWithin(UNTIL_TAKEN_UP_MS)
    for (const delayMs of INTERRUPT_DELAYS_MS) {
      await execution.finishedWithin(delayMs)
      if (execution.isFinished) return
      await this.#jupyter.interruptKernel(this.info.id).catch(() => undefined)
    }
  }

  #forgetProcess(): void {
    this.#isUnproven = true
    this.#hasFreshProcess = true
    this.#variables = {}
    this.#variablesGeneration = undefined
    this.#seedGeneration = this.#environment.generation()
  }

  #nextId(): string {
    this.#executions += 1
    return `execution-${this.#channels}-${this.#executions}`
  }
}
