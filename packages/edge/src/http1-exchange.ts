import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http'
import type { Writable } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { Exchange } from './exchange.ts'

/** Splits an absolute-form request target; other forms are returned as they are. */
function splitTarget(url: string): { path: string; authority: string | undefined } {
  const absolute = /^https?:\/\/([^/?#]*)(.*)$/i.exec(url)
  if (!absolute) return { path: url, authority: undefined }
  const rest = absolute[2] ?? ''
  return { path: rest.startsWith('/') ? rest : `/${rest}`, authority: absolute[1] }
}

function pairs(raw: readonly string[]): [string, string][] {
  const result: [string, string][] = []
  for (let at = 0; at + 1 < raw.length; at += 2) result.push([raw[at]!, raw[at + 1]!])
  return result
}

/**
 * An exchange over HTTP/1.0 or 1.1. `expectsContinue` when the client waits for a 100, `lastOnConnection` when
 * the connection cannot carry another request (one that asked for an upgrade).
 */
export class Http1Exchange implements Exchange {
  readonly path: string
  readonly authority: string
  readonly secure: boolean
  readonly remoteAddress: string
  readonly body: IncomingMessage
  readonly #response: ServerResponse
  readonly #lastOnConnection: boolean
  #expectsContinue: boolean

  constructor(
    request: IncomingMessage,
    response: ServerResponse,
    kind: { expectsContinue?: boolean; lastOnConnection?: boolean } = {},
  ) {
    const target = splitTarget(request.url ?? '/')
    this.path = target.path
    this.authority = target.authority ?? request.headers.host ?? ''
    this.secure = request.socket instanceof TLSSocket
    this.remoteAddress = request.socket.remoteAddress ?? ''
    this.body = request
    this.#response = response
    this.#expectsContinue = kind.expectsContinue ?? false
    this.#lastOnConnection = kind.lastOnConnection ?? false
    // Failures are seen as an early close; an unheard 'error' would end the process.
    request.on('error', () => {})
    response.on('error', () => {})
  }

  get method(): string {
    return this.body.method ?? 'GET'
  }

  get rawHeaders(): readonly string[] {
    return this.body.rawHeaders
  }

  get hasBody(): boolean {
    const { headers } = this.body
    const length = headers['content-length']
    return headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0')
  }

  get answered(): boolean {
    return this.#response.headersSent
  }

  get bodyAborted(): boolean {
    return !this.body.complete
  }

  get closed(): boolean {
    return this.#response.closed || this.#response.destroyed || (this.#response.socket?.destroyed ?? true)
  }

  get status(): number {
    return this.#response.headersSent ? this.#response.statusCode : 0
  }

  header(name: string): string | undefined {
    const value = this.body.headers[name]
    return Array.isArray(value) ? value[0] : value
  }

  sendContinue(): void {
    if (!this.#expectsContinue) return
    this.#expectsContinue = false
    this.#response.writeContinue()
  }

  answer(status: number, statusText: string, rawHeaders: readonly string[], bodyless: boolean): Writable {
    const response = this.#response
    const headers = [...rawHeaders]
    // A client that was not told to continue may or may not send its body: its connection is of no more use.
    if (this.#expectsContinue || this.#lastOnConnection) headers.push('Connection', 'close')
    response.writeHead(status, statusText || STATUS_CODES[status] || '', headers)
    if (!bodyless) {
      // A body chunk that came together with the head shares its packet; otherwise the head goes alone.
      setImmediate(() => {
        if (!response.writableEnded && !response.destroyed) response.flushHeaders()
      })
    }
    return response
  }

  end(rawTrailers: readonly string[]): void {
    try {
      if (rawTrailers.length > 0) this.#response.addTrailers(pairs(rawTrailers))
      this.#response.end()
    } catch {
      // Trailers that cannot be written come from the service: its answer is broken.
      this.reset()
    }
    // What the client still uploads is thrown away, so that the connection can carry its next request.
    if (!this.body.readableEnded) this.body.resume()
  }

  reset(): void {
    const { socket } = this.#response
    if (!socket || socket instanceof TLSSocket) {
      // Without close_notify and before the announced end: no client takes it for complete.
      ;(socket ?? this.body.socket).destroy()
    } else {
      socket.resetAndDestroy()
    }
  }

  onClose(listener: (clean: boolean) => void): void {
    this.#response.once('close', () => listener(this.#response.writableFinished))
  }
}
