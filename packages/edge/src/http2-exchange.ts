import { constants, type ServerHttp2Stream } from 'node:http2'
import type { Writable } from 'node:stream'
import type { Exchange } from './exchange.ts'

const SINGLE_VALUE = new Set([
  'access-control-allow-credentials',
  'access-control-max-age',
  'age',
  'content-encoding',
  'content-language',
  'content-length',
  'content-location',
  'content-md5',
  'content-range',
  'content-type',
  'date',
  'dnt',
  'etag',
  'expires',
  'last-modified',
  'location',
  'retry-after',
  'tk',
  'upgrade-insecure-requests',
  'x-content-type-options',
])

/** Request headers as HTTP/1.1 sends them: no pseudo headers, cookies in one line. */
function plainHeaders(raw: readonly string[]): string[] {
  const headers: string[] = []
  const cookies: string[] = []
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = raw[at]!
    if (name.startsWith(':')) continue
    if (name === 'cookie') cookies.push(raw[at + 1]!)
    else headers.push(name, raw[at + 1]!)
  }
  if (cookies.length > 0) headers.push('cookie', cookies.join('; '))
  return headers
}

/** An exchange over one HTTP/2 stream. `endStream`: the request had no body. */
export class Http2Exchange implements Exchange {
  readonly method: string
  readonly path: string
  readonly authority: string
  readonly secure: boolean
  readonly remoteAddress: string
  readonly hasBody: boolean
  readonly rawHeaders: readonly string[]
  readonly body: ServerHttp2Stream
  readonly #all: readonly string[]
  #expectsContinue: boolean
  #trailers: readonly string[] = []
  #status = 0

  constructor(stream: ServerHttp2Stream, rawHeaders: readonly string[], endStream: boolean, secure: boolean) {
    this.#all = rawHeaders
    this.method = this.header(':method') ?? 'GET'
    this.path = this.header(':path') ?? '/'
    this.authority = this.header(':authority') ?? this.header('host') ?? ''
    this.secure = secure
    this.hasBody = !endStream
    this.rawHeaders = plainHeaders(rawHeaders)
    this.body = stream
    this.remoteAddress = stream.session?.socket.remoteAddress ?? ''
    this.#expectsContinue = this.header('expect')?.toLowerCase() === '100-continue'
    // Failures are seen as an early close; an unheard 'error' would end the process.
    stream.on('error', () => {})
  }

  /** `websocket` when the client opens a tunnel by extended CONNECT. */
  get protocol(): string | undefined {
    return this.header(':protocol')
  }

  get answered(): boolean {
    return this.body.headersSent
  }

  get bodyAborted(): boolean {
    return this.body.aborted || (this.body.rstCode ?? 0) !== constants.NGHTTP2_NO_ERROR
  }

  get closed(): boolean {
    return this.body.closed || this.body.destroyed
  }

  get status(): number {
    return this.#status
  }

  header(name: string): string | undefined {
    for (let at = 0; at + 1 < this.#all.length; at += 2) {
      if (this.#all[at] === name) return this.#all[at + 1]
    }
    return undefined
  }

  sendContinue(): void {
    if (!this.#expectsContinue) return
    this.#expectsContinue = false
    this.body.additionalHeaders({ ':status': 100 })
  }

  answer(status: number, _statusText: string, rawHeaders: readonly string[], bodyless: boolean): Writable {
    this.#status = status
    const headers = [':status', String(status)]
    let waitForTrailers = false
    const seen = new Set<string>()
    for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
      const name = rawHeaders[at]!.toLowerCase()
      if (name === 'trailer') waitForTrailers = true
      // Node refuses to repeat what stands once by definition; of careless services the first one counts.
      if (SINGLE_VALUE.has(name) && seen.has(name)) continue
      seen.add(name)
      headers.push(name, rawHeaders[at + 1]!)
    }
    if (waitForTrailers && !bodyless) this.body.once('wantTrailers', () => this.#sendTrailers())
    this.body.respond(headers, { endStream: bodyless, waitForTrailers: waitForTrailers && !bodyless })
    return this.body
  }

  #sendTrailers(): void {
    const trailers: Record<string, string[]> = {}
    for (let at = 0; at + 1 < this.#trailers.length; at += 2) {
      const name = this.#trailers[at]!.toLowerCase()
      trailers[name] = [...(trailers[name] ?? []), this.#trailers[at + 1]!]
    }
    try {
      this.body.sendTrailers(trailers)
    } catch {
      // Trailers that HTTP/2 forbids come from the service: its answer is broken.
      this.reset()
    }
  }

  end(rawTrailers: readonly string[]): void {
    this.#trailers = rawTrailers
    this.body.end()
    // What the client still uploads is thrown away: a stream that nobody reads would never close.
    if (!this.body.readableEnded) this.body.resume()
  }

  reset(): void {
    // destroy with an error sends RST_STREAM; close() would first flush an orderly end.
    this.body.destroy(new Error('the exchange is reset'))
  }

  onClose(listener: (clean: boolean) => void): void {
    const { body } = this
    body.once('close', () => listener(body.rstCode === constants.NGHTTP2_NO_ERROR && body.writableFinished))
  }
}
