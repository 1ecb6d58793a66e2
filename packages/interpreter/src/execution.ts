/** One execution under way: kernel messages in, stream messages out, until the kernel has told all of it. */
import type { KernelChannel } from './kernel-channel.ts'
import type { KernelMessage } from './kernel-message.ts'
import { settledWithin } from './settled-within.ts'
import {
  type StreamError,
  type StreamMessage,
  syntheticError,
  toError,
  toStreamMessage,
} from './stream-message.ts'

/** Where the messages go. */
export interface ExecutionOutput {
  /** False when the receiver is full: no more until `onDrain` calls back. */
  write(message: StreamMessage): boolean
  /** Calls back once there is room again, or the receiver is gone. */
  onDrain(resume: () => void): void
}

/**
 * Some kernels never reply to a request: after its idle status, the execution ends when so many looks in a row have not
 * found the reply. Several, because a sandbox that was frozen meanwhile, and a service that was busy, finds a timer
 * over at once.
 */
const REPLY_LOOKS = 5
const REPLY_LOOK_MS = 100

/** Some never tell that they are idle again: after the reply, so many looks at a kernel that publishes nothing. */
const QUIET_LOOKS = 6
const QUIET_LOOK_MS = 500

/** A kernel that has not even taken up a request after this time has lost it. */
const TAKE_UP_TIMEOUT_MS = 30_000

const NOT_TAKEN_UP = syntheticError('WebSocketError', 'The kernel did not take up the execution request')

export class Execution {
  readonly id: string
  readonly finished: Promise<void>
  readonly #takenUp = Promise.withResolvers<void>()
  failure: StreamError | undefined
  isFinished = false
  readonly #output: ExecutionOutput
  readonly #channel: KernelChannel
  readonly #finish: () => void
  #hasError = false
  #isIdle = false
  #hasReply = false
  #replyError: StreamError | undefined
  #graceTimer: NodeJS.Timeout | undefined
  readonly #takeUpTimer: NodeJS.Timeout

  constructor(id: string, output: ExecutionOutput, channel: KernelChannel) {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.id = id
    this.finished = promise
    this.#finish = resolve
    this.#output = output
    this.#channel = channel
    this.#takeUpTimer = setTimeout(() => this.fail(NOT_TAKEN_UP), TAKE_UP_TIMEOUT_MS)
  }

  /** True when the kernel has published that it is idle again. */
  get isIdle(): boolean {
    return this.#isIdle
  }

  /** Takes a message that answers this execution's request. */
  receive(message: KernelMessage): void {
    if (this.isFinished) return
    clearTimeout(this.#takeUpTimer)
    this.#takenUp.resolve()
    if (message.type === 'status') {
      if (message.content.execution_state === 'idle') this.#becomeIdle()
    } else if (message.type === 'execute_reply') {
      this.#hasReply = true
      this.#takeReply(message.content)
      this.#endWhenComplete()
      if (!this.isFinished) this.#awaitIdle(this.#channel.bytesPublished, QUIET_LOOKS)
    } else {
      const line = toStreamMessage(message)
      if (line?.type === 'error' && this.#hasError) return
      if (line !== undefined) this.#write(line)
    }
  }

  /** Ends the execution with an error. */
  fail(error: StreamError): void {
    if (this.isFinished) return
    this.failure = error
    this.#write(error)
    this.#end()
  }

  /** Resolves when the kernel has taken the execution up or it has finished, at the latest after `ms`. */
  takenUpWithin(ms: number): Promise<void> {
    return settledWithin(this.#takenUp.promise, ms)
  }

  /** Resolves when the execution has finished, at the latest after `ms`. */
  finishedWithin(ms: number): Promise<void> {
    return settledWithin(this.finished, ms)
  }

  /** Output that still comes, or that waits for a slow client, is waited for however long it takes. */
  #awaitIdle(bytesBefore: number, looks: number): void {
    this.#graceTimer = setTimeout(() => {
      const bytes = this.#channel.bytesPublished
      if (bytes !== bytesBefore || this.#channel.isPaused) this.#awaitIdle(bytes, QUIET_LOOKS)
      else if (looks > 1) this.#awaitIdle(bytes, looks - 1)
      else this.#end()
    }, QUIET_LOOK_MS)
  }

  #awaitReply(looks: number): void {
    this.#graceTimer = setTimeout(() => {
      if (looks > 1) this.#awaitReply(looks - 1)
      else this.#end()
    }, REPLY_LOOK_MS)
  }

  #becomeIdle(): void {
    this.#isIdle = true
    clearTimeout(this.#graceTimer)
    this.#awaitReply(REPLY_LOOKS)
    this.#endWhenComplete()
  }

  #takeReply(content: Record<string, unknown>): void {
    const status = content.status
    // Told at the end, when the messages before it, which come another way, have had their turn.
    if (status === 'error') this.#replyError = toError(content)
    // Protocol 5.1 renamed `abort` to `aborted`; kernels of both ages exist.
    if (status === 'abort' || status === 'aborted') {
      this.#write(syntheticError('ExecutionAborted', 'Execution was aborted'))
    }
  }

  #endWhenComplete(): void {
    if (this.#isIdle && this.#hasReply) this.#end()
  }

  #end(): void {
    if (this.isFinished) return
    this.isFinished = true
    clearTimeout(this.#graceTimer)
    clearTimeout(this.#takeUpTimer)
    this.#takenUp.resolve()
    if (this.#replyError !== undefined && !this.#hasError) this.#write(this.#replyError)
    // What comes now is not this client's: the next execution does not wait for a slow one.
    this.#channel.resume()
    this.#finish()
  }

  #write(line: StreamMessage): void {
    if (line.type === 'error') this.#hasError = true
    if (this.#output.write(line)) return
    if (this.isFinished) return
    this.#channel.pause()
    this.#output.onDrain(() => {
      if (!this.isFinished) this.#channel.resume()
    })
  }
}
