/** The kernel: one cell at a time, from the request to the idle status, and what the code does in between. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Broadcast } from './broadcast.ts'
import { CapturedOutput } from './captured-output.ts'
import { prepareSource } from './cell-source.ts'
import { beforePrograms } from './child-programs.ts'
import type { ConnectionInfo } from './connection-file.ts'
import { installDisplay } from './display.ts'
import { Environment } from './environment.ts'
import { Evaluator, type Outcome } from './evaluator.ts'
import { onInterrupt } from './interrupts.ts'
import { kernelInfo } from './kernel-info.ts'
import { toMimeBundle } from './mime-bundle.ts'
import { cellMeta, importModule, importNames, installModuleGlobals } from './modules.ts'
import { openSslEntropy } from './openssl.ts'
import { OutputPipes } from './output-pipes.ts'
import type { OutputSources } from './output-sources.ts'
import { installRandom } from './random.ts'
import { endStacksAtCells } from './stack-traces.ts'
import { NoInputError, refuseInput } from './standard-input.ts'
import { describeSyntaxError, describeThrown, type ErrorContent } from './thrown.ts'
import { MessageCodec, type WireMessage } from './wire-message.ts'
import { installRandomInWorkers } from './worker-random.ts'
import { type Peer, ZmtpListener } from './zmtp-listener.ts'

export interface KernelOptions {
  connection: ConnectionInfo
  language: 'javascript' | 'typescript'
  /** Shared with the thread that takes interrupts. */
  shared: SharedArrayBuffer
}

/** Thrown by `process.exit`, which ends the cell and not the kernel. */
class CellExit {
  readonly code: number

  constructor(code: number) {
    this.code = code
  }
}

const INTERRUPTED = { ename: 'Interrupted', evalue: 'Execution was interrupted', traceback: [] }

export class Kernel {
  /** For the thread that publishes what this one sends. */
  readonly sources: OutputSources
  readonly #options: KernelOptions
  readonly #codec: MessageCodec
  readonly #broadcast: Broadcast
  readonly #shell: ZmtpListener
  readonly #stdin = new ZmtpListener('ROUTER')
  readonly #evaluator = new Evaluator()
  readonly #output: CapturedOutput
  /** The request whose code runs, or ran last: late output belongs to it. */
  #request: WireMessage | undefined
  #endCell: ((outcome: ErrorContent | undefined) => void) | undefined
  #count = 0
  #cells = 0
  #isBusy = false
  readonly #waiting: { message: WireMessage; peer: Peer }[] = []

  constructor(options: KernelOptions) {
    this.#options = options
    this.#codec = new MessageCodec(options.connection.key, `kernel-${process.pid}`)
    this.#output = new CapturedOutput((name, text) => this.#publish('stream', { name, text }))
    const pipes = new OutputPipes()
    this.sources = pipes.sources
    this.#broadcast = new Broadcast(pipes, this.#codec)
    this.#shell = new ZmtpListener('ROUTER', (parts, peer) => this.#receive(parts, peer))
    this.#installGlobals()
  }

  async listen(): Promise<void> {
    const { connection } = this.#options
    await this.#stdin.listen(connection.endpoint('stdin_port'))
    await this.#shell.listen(connection.endpoint('shell_port'))
  }

  #installGlobals(): void {
    endStacksAtCells()
    installRandom()
    installModuleGlobals()
    refuseInput()
    beforePrograms(() => this.#output.flush())
    installDisplay((data) => {
      this.#output.flush()
      this.#publish('display_data', { data, metadata: {} })
    })
    const environment = new Environment(openSslEntropy(), installRandomInWorkers())
    Object.defineProperty(globalThis, Symbol.for('e2b.kernel'), {
      value: {
        importModule,
        importNames,
        get meta() {
          return cellMeta()
        },
        prepare: environment.prepare.bind(environment),
        restore: environment.restore.bind(environment),
      },
    })
    process.exit = (code) => {
      throw new CellExit(Number(code ?? process.exitCode ?? 0))
    }
    process.on('uncaughtException', (error: unknown) => this.#takeUncaught(error))
    process.on('unhandledRejection', (error: unknown) => this.#takeUncaught(error))
    onInterrupt(this.#options.shared, () => this.#endCell?.(INTERRUPTED))
  }

  /** An error in a callback or a forgotten promise is told, and the kernel goes on. */
  #takeUncaught(error: unknown): void {
    if (error instanceof CellExit) this.#endCell?.(exitError(error))
    else if (error instanceof NoInputError) this.#endCell?.(describeThrown(error))
    else this.#output.write('stderr', `Uncaught ${describeThrown(error).traceback.join('\n')}\n`)
  }

  #receive(parts: Buffer[], peer: Peer): void {
    const message = this.#codec.decode(parts)
    this.#waiting.push({ message, peer })
    this.#serveNext()
  }

  /**
   * Each request begins in a turn of the event loop of its own: code that is ended from outside takes all promise
   * jobs along that wait behind it, and none of them may be the kernel's.
   */
  #serveNext(): void {
    const next = this.#isBusy ? undefined : this.#waiting.shift()
    if (next === undefined) return
    this.#isBusy = true
    setImmediate(() => {
      const goOn = (): void => {
        this.#isBusy = false
        this.#serveNext()
      }
      this.#serve(next.message, next.peer).then(goOn, goOn)
    })
  }

  async #serve(message: WireMessage, peer: Peer): Promise<void> {
    this.#request = message
    this.#broadcast.follow(message)
    this.#publish('status', { execution_state: 'busy' })
    const type = message.header.msg_type
    const content = type === 'execute_request' ? await this.#execute(message) : answerTo(type)
    if (content !== undefined) {
      peer.send(this.#codec.encode(type.replace('_request', '_reply'), content, message))
    }
    this.#output.flush()
    this.#publish('status', { execution_state: 'idle' })
  }

  async #execute({ content }: WireMessage): Promise<Record<string, unknown>> {
    const code = String(content.code ?? '')
    const isSilent = content.silent === true
    if (!isSilent) {
      this.#count += 1
      this.#publish('execute_input', { code, execution_count: this.#count })
    }
    const error = await this.#runCell(code, isSilent)
    // A rejection that nobody handles is told now, not after the end of the cell.
    if (!isSilent) await nextTurn()
    this.#output.flush()
    const execution_count = this.#count
    if (error === undefined) return { status: 'ok', execution_count, user_expressions: {}, payload: [] }
    if (!isSilent) this.#publish('error', error)
    return { status: 'error', execution_count, ...error }
  }

  /** Resolves to the error, when there is one, also when the cell is ended from outside. */
  #runCell(code: string, isSilent: boolean): Promise<ErrorContent | undefined> {
    return new Promise((resolve) => {
      this.#endCell = resolve
      this.#evaluate(code, isSilent).then(resolve, (failure: unknown) => resolve(describeThrown(failure)))
    }).finally(() => {
      this.#endCell = undefined
    }) as Promise<ErrorContent | undefined>
  }

  async #evaluate(code: string, isSilent: boolean): Promise<ErrorContent | undefined> {
    if (code.trim() === '') return undefined
    this.#cells += 1
    const name = `cell-${isSilent ? 'silent' : this.#count}.js`
    const outcome = await this.#evaluator.evaluate(prepareSource(code, this.#options.language), name)
    if ('thrown' in outcome) return errorOf(outcome, code, name)
    try {
      // A promise as the last value is waited for: its output belongs to the cell.
      const value = await outcome.value
      if (!isSilent && value !== undefined) await this.#publishResult(value)
      return undefined
    } catch (thrown) {
      return errorOf({ thrown, line: 0, column: 0 }, code, name)
    }
  }

  async #publishResult(value: unknown): Promise<void> {
    const data = await toMimeBundle(value)
    this.#output.flush()
    this.#publish('execute_result', { data, metadata: {}, execution_count: this.#count })
  }

  #publish(type: string, content: unknown): void {
    this.#broadcast.send(type, content, this.#request)
  }
}

function errorOf(
  outcome: Extract<Outcome, { thrown: unknown }>,
  code: string,
  name: string,
): ErrorContent | undefined {
  const { thrown, line, column } = outcome
  if (thrown instanceof CellExit) return exitError(thrown)
  if (thrown instanceof SyntaxError && line > 0)
    return describeSyntaxError(thrown, { name, code, line, column })
  return describeThrown(thrown)
}

function exitError({ code }: CellExit): ErrorContent | undefined {
  if (code === 0) return undefined
  return { ename: 'SystemExit', evalue: String(code), traceback: [`process.exit(${code})`] }
}

/** Undefined for messages that want no answer. */
function answerTo(type: string): Record<string, unknown> | undefined {
  switch (type) {
    case 'kernel_info_request':
      return { status: 'ok', ...kernelInfo }
    case 'is_complete_request':
      return { status: 'unknown' }
    case 'complete_request':
      return { status: 'ok', matches: [], cursor_start: 0, cursor_end: 0, metadata: {} }
    case 'inspect_request':
      return { status: 'ok', found: false, data: {}, metadata: {} }
    case 'history_request':
      return { status: 'ok', history: [] }
    case 'comm_info_request':
      return { status: 'ok', comms: {} }
    default:
      return undefined
  }
}
