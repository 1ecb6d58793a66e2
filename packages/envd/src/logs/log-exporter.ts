import { request } from 'node:http'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

/** One line as the host takes it; other keys are fields of the line. */
export interface ExportedLine {
  readonly timestamp: string
  readonly level: LogLevel
  readonly message: string
  readonly [field: string]: string
}

export interface LogExporterOptions {
  /** TCP port of the host's listener. */
  readonly port: number
  /** How long a line waits for others. Default 200. */
  readonly delayMs?: number
}

const BODY_BYTES = 56 * 1024
const MOST_LINES_SENT = 400
const MOST_QUEUED = 1_000
const MOST_QUEUED_BYTES = 256 * 1024
const SEND_WITHIN_MS = 5_000
const FIRST_RETRY_MS = 1_000
const LONGEST_RETRY_MS = 30_000
/** After this many failures in a row only a new line makes it try again: a lone agent goes to sleep. */
const MOST_RETRIES = 8

/**
 * Sends lines to the host, many at once, over a connection that lasts as long as the request. Sets a timer only while
 * lines wait. Whatever cannot be sent waits within a bound; the oldest go first, and their number is told.
 */
export class LogExporter {
  readonly #port: number
  readonly #delayMs: number
  #address: string | undefined
  #queue: string[] = []
  #queuedBytes = 0
  #dropped = 0
  #failures = 0
  #suspended = false
  #timer: NodeJS.Timeout | undefined
  #sending: Promise<void> | undefined
  #abort: AbortController | undefined

  constructor({ port, delayMs = 200 }: LogExporterOptions) {
    this.#port = port
    this.#delayMs = delayMs
  }

  /** Where to send to from now on. What a sandbox before this one left to be sent is forgotten when `isNew`. */
  begin(address: string | undefined, isNew: boolean): void {
    this.#abort?.abort()
    if (isNew) {
      this.#queue = []
      this.#queuedBytes = 0
      this.#dropped = 0
    }
    this.#address = address ?? this.#address
    this.resume()
  }

  add(line: ExportedLine): void {
    if (this.#address === undefined) return
    const text = JSON.stringify(line)
    this.#queue.push(text)
    this.#queuedBytes += text.length
    while (this.#queue.length > MOST_QUEUED || this.#queuedBytes > MOST_QUEUED_BYTES) {
      this.#queuedBytes -= this.#queue.shift()?.length ?? 0
      this.#dropped++
    }
    if (!this.#timer) this.#sendAfter(this.#delayMs)
  }

  /** Sends what waits, for at most `withinMs`, then nothing more: a connection would not outlive a capture. */
  async suspend(withinMs: number): Promise<void> {
    if (this.#queue.length > 0 && this.#failures === 0) {
      let timer: NodeJS.Timeout | undefined
      const time = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, withinMs)
      })
      await Promise.race([this.#send(), time])
      clearTimeout(timer)
    }
    this.#suspended = true
    this.#abort?.abort()
    this.#clearTimer()
  }

  /** Goes on after a capture, or in a clone. */
  resume(): void {
    this.#suspended = false
    this.#failures = 0
    this.#clearTimer()
    if (this.#queue.length > 0) this.#sendAfter(this.#delayMs)
  }

  close(): void {
    this.#suspended = true
    this.#abort?.abort()
    this.#clearTimer()
  }

  #clearTimer(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
  }

  #sendAfter(ms: number): void {
    if (this.#suspended || this.#address === undefined) return
    this.#timer = setTimeout(() => {
      this.#timer = undefined
      void this.#send()
    }, ms).unref()
  }

  /** Joins what is being sent. Never rejects. */
  #send(): Promise<void> {
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined
    })
    return this.#sending
  }

  async #sendAll(): Promise<void> {
    while (this.#queue.length > 0 && !this.#suspended && this.#address !== undefined) {
      const count = this.#nextCount()
      const sent = this.#queue.slice(0, count)
      const dropped = this.#dropped
      const abort = new AbortController()
      this.#abort = abort
      const status = await post(this.#address, this.#port, bodyOf(sent, dropped), abort.signal)
      if (abort.signal.aborted) return
      const isTaken = status >= 200 && status < 300
      // What the host will never take must not hold up the rest.
      if (!isTaken && status !== 400 && status !== 413) return this.#failed()
      this.#failures = 0
      this.#dropped -= dropped
      if (!isTaken) this.#dropped += count
      this.#forget(sent)
    }
  }

  #nextCount(): number {
    let bytes = 0
    let count = 0
    for (const text of this.#queue) {
      bytes += Buffer.byteLength(text) + 1
      if (count > 0 && (bytes > BODY_BYTES || count >= MOST_LINES_SENT)) break
      count++
    }
    return count
  }

  /** Some of them may have been dropped meanwhile, as the oldest. */
  #forget(sent: readonly string[]): void {
    const gone = new Set(sent)
    while (this.#queue[0] !== undefined && gone.has(this.#queue[0])) {
      this.#queuedBytes -= this.#queue.shift()?.length ?? 0
    }
  }

  #failed(): void {
    this.#failures++
    if (this.#failures > MOST_RETRIES || this.#timer) return
    this.#sendAfter(Math.min(FIRST_RETRY_MS * 2 ** (this.#failures - 1), LONGEST_RETRY_MS))
  }
}

function bodyOf(lines: readonly string[], dropped: number): string {
  if (dropped === 0) return `[${lines.join(',')}]`
  const told: ExportedLine = {
    timestamp: new Date().toISOString(),
    level: 'warn',
    message: `${dropped} log lines were dropped`,
    logger: 'envd',
  }
  return `[${[JSON.stringify(told), ...lines].join(',')}]`
}

/** The status of the answer; 0 when there is none. */
function post(host: string, port: number, body: string, signal: AbortSignal): Promise<number> {
  return new Promise((resolve) => {
    const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) }
    const outgoing = request({ host, port, method: 'POST', path: '/logs', headers, agent: false, signal })
    const timer = setTimeout(() => outgoing.destroy(new Error('no answer')), SEND_WITHIN_MS).unref()
    const settle = (status: number): void => {
      clearTimeout(timer)
      resolve(status)
    }
    outgoing.once('error', () => settle(0))
    outgoing.once('response', (answer) => {
      answer.on('error', () => {})
      answer.resume()
      answer.once('close', () => settle(answer.statusCode ?? 0))
    })
    outgoing.end(body)
  })
}
