import type { Readable, Writable } from 'node:stream'

/** One request of a client and its answer, the same for HTTP/1.1 and HTTP/2. */
export interface Exchange {
  readonly method: string
  /** Origin form: begins with `/` (or is `*`), query included. */
  readonly path: string
  /** Host or `:authority` as the client sent it, port included. */
  readonly authority: string
  readonly secure: boolean
  readonly remoteAddress: string
  /** Names and values in turn, pseudo headers left out. */
  readonly rawHeaders: readonly string[]
  readonly body: Readable
  /** False when the request certainly has no body. */
  readonly hasBody: boolean
  /** True once an answer has begun: from then on only `reset` can report a failure. */
  readonly answered: boolean
  /** Status of the answer, 0 before it. */
  readonly status: number
  /** True when the body ended early because the client left. */
  readonly bodyAborted: boolean
  /** True once the client has left or has its whole answer. */
  readonly closed: boolean
  /** First value of a request header, by lower-case name. */
  header(name: string): string | undefined
  /** Answers `Expect: 100-continue`; nothing happens for a client that did not ask. */
  sendContinue(): void
  /** Sends the head of the answer at once. The returned stream takes the body; end it with `end`. */
  answer(status: number, statusText: string, rawHeaders: readonly string[], bodyless: boolean): Writable
  /** Ends the answer. Trailers are names and values in turn. */
  end(rawTrailers: readonly string[]): void
  /** Ends the exchange so that the client cannot take it for complete. */
  reset(): void
  /** Calls back once when the exchange is over; `clean` when the whole answer was sent. */
  onClose(listener: (clean: boolean) => void): void
}
