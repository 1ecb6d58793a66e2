/** The body of an execution's answer: one JSON object per line, a sign of life when the kernel is silent. */
import type { ServerResponse } from 'node:http'
import type { ExecutionOutput } from './execution.ts'
import type { StreamMessage } from './stream-message.ts'

export class NdjsonStream implements ExecutionOutput {
  readonly #response: ServerResponse
  readonly #keepalive: NodeJS.Timeout

  /** Sends the headers at once. `keepaliveMs` of silence are followed by a `keepalive` line. */
  constructor(response: ServerResponse, keepaliveMs: number) {
    this.#response = response
    response.writeHead(200, { 'content-type': 'application/x-ndjson', 'cache-control': 'no-cache' })
    response.flushHeaders()
    this.#keepalive = setInterval(() => this.#beat(), keepaliveMs)
    response.once('close', () => clearInterval(this.#keepalive))
  }

  write(message: StreamMessage): boolean {
    if (this.#response.destroyed) return true
    this.#keepalive.refresh()
    return this.#response.write(`${JSON.stringify(message)}\n`)
  }

  onDrain(resume: () => void): void {
    const once = () => {
      this.#response.off('drain', once)
      this.#response.off('close', once)
      resume()
    }
    this.#response.on('drain', once)
    this.#response.on('close', once)
  }

  /** Writes the last line and ends the answer. */
  end(): void {
    clearInterval(this.#keepalive)
    if (!this.#response.destroyed) this.#response.end('{"type":"end_of_execution"}\n')
  }

  #beat(): void {
    if (!this.#response.writableNeedDrain) this.write({ type: 'keepalive' })
  }
}
