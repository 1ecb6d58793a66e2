/** The body of an execution's answer: one JSON object per line, a sign of life when the kernel is silent. */
import type { ServerResponse } from 'node:http'
import type { ExecutionOutput } from './execution.ts'
import type { StreamMessage } from './stream-message.ts'

/** Within a line, but ends of lines to readers that follow Unicode, as the Python client's does. */
const UNICODE_LINE_ENDS = /[\u0085\u2028\u2029]/g
/** Every escape of a backslash, so that what follows one is not taken for an escape; and of halves of a character. */
const LONE_SURROGATES = /\\(\\|ud[89a-f][0-9a-f]{2})/g

/** One line of ASCII line ends alone, and text that every receiver can encode: half a character is U+FFFD. */
function toLine(message: StreamMessage): string {
  const json = JSON.stringify(message).replace(
    UNICODE_LINE_ENDS,
    (end) => `\\u${end.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
  if (!json.includes('\\ud')) return `${json}\n`
  return `${json.replace(LONE_SURROGATES, (whole, what) => (what === '\\' ? whole : '\ufffd'))}\n`
}

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
    return this.#response.write(toLine(message))
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
