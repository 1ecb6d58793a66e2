/** QEMU's control socket: JSON objects, one a line. The other end is a process that a guest may have taken over. */
import { connect, type Socket } from 'node:net'
import { errorCode } from '../../linux/libc.ts'

type Answer = Record<string, unknown>

/** An answer longer than this is no answer to anything that is asked here. */
const LONGEST_LINE_BYTES = 1024 * 1024

/** What QEMU refused; the message is its own. */
export class QmpError extends Error {
  override readonly name = 'QmpError'
}

/** One connection; QEMU serves one at a time. */
export class Qmp {
  readonly #socket: Socket
  readonly #timeoutMs: number
  readonly #lines: Answer[] = []
  #ended: Error | undefined
  #arrived = Promise.withResolvers<void>()
  #buffer = ''

  private constructor(socket: Socket, timeoutMs: number) {
    this.#socket = socket
    this.#timeoutMs = timeoutMs
    socket.setEncoding('utf8')
    socket.on('data', (text: string) => this.#read(text))
    socket.on('error', (error) => this.#end(error))
    socket.on('close', () => this.#end(new QmpError('QEMU closed its control socket')))
  }

  /** Runs `action` on a connection of its own. @throws QmpError, or the socket's error */
  static async with<Result>(
    path: string,
    timeoutMs: number,
    action: (qmp: Qmp) => Promise<Result>,
  ): Promise<Result> {
    const qmp = new Qmp(connect(path), timeoutMs)
    try {
      await qmp.#next((answer) => 'QMP' in answer)
      await qmp.execute('qmp_capabilities')
      return await action(qmp)
    } finally {
      qmp.#socket.destroy()
    }
  }

  /** @throws QmpError */
  async execute(command: string, words: Answer = {}): Promise<unknown> {
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: words })}\n`)
    const answer = await this.#next((line) => 'return' in line || 'error' in line)
    if ('return' in answer) return answer.return
    const { desc } = answer.error as { desc?: unknown }
    throw new QmpError(`${command}: ${String(desc).slice(0, 500)}`)
  }

  /** Waits for an event, which may have come already. @throws QmpError */
  async event(name: string, fits: (data: Answer) => boolean): Promise<void> {
    await this.#next((line) => line.event === name && fits((line.data ?? {}) as Answer))
  }

  /** Takes the first line that fits out of those that came. */
  async #next(fits: (line: Answer) => boolean): Promise<Answer> {
    const endsAtMs = performance.now() + this.#timeoutMs
    for (;;) {
      const at = this.#lines.findIndex(fits)
      if (at >= 0) return this.#lines.splice(at, 1)[0]!
      if (this.#ended) throw this.#ended
      await this.#arrival(endsAtMs - performance.now())
    }
  }

  async #arrival(withinMs: number): Promise<void> {
    const timer = setTimeout(
      () => this.#end(new QmpError(`QEMU did not answer within ${this.#timeoutMs} ms`)),
      Math.max(0, withinMs),
    )
    await this.#arrived.promise.finally(() => clearTimeout(timer))
  }

  #read(text: string): void {
    const lines = (this.#buffer + text).split('\n')
    this.#buffer = lines.pop() ?? ''
    if (this.#buffer.length > LONGEST_LINE_BYTES) this.#end(new QmpError('QEMU answers without an end'))
    for (const line of lines) this.#take(line)
    this.#wake()
  }

  #take(line: string): void {
    try {
      const parsed: unknown = JSON.parse(line)
      if (typeof parsed === 'object' && parsed !== null) this.#lines.push(parsed as Answer)
    } catch {
      this.#end(new QmpError('QEMU answers with what is not JSON'))
    }
  }

  #end(error: Error): void {
    this.#ended ??= error
    this.#socket.destroy()
    this.#wake()
  }

  #wake(): void {
    this.#arrived.resolve()
    this.#arrived = Promise.withResolvers<void>()
  }
}

/** Whether nobody listens at a control socket: the machine is gone. */
export const isGone = (error: unknown): boolean => ['ENOENT', 'ECONNREFUSED'].includes(errorCode(error) ?? '')
