import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http'
import type { Exchange } from './exchange.ts'
import { endToEndHeaders, requestHeaders } from './headers.ts'
import { pump } from './pump.ts'
import type { Upstream } from './upstream.ts'

/** How the service is addressed. */
export interface Destination {
  readonly upstream: Upstream
  readonly port: number
  readonly tls: boolean
  /** Host header towards the service. */
  readonly host: string
}

/**
 * `answered`: completely; `gone`: broken off by either side; `malformed`: not expressible in HTTP/1.1; `failed`: the service gave no answer and the client still waits.
 * `unsent` when no connection came about; `untouched` when no byte of the body was taken, so that the request
 * can be sent again; `stale` when the connection was a reused one and the request may be repeated.
 */
export type Outcome =
  | { readonly kind: 'answered' | 'gone' | 'malformed' }
  | {
      readonly kind: 'failed'
      readonly error: Error
      readonly untouched: boolean
      readonly unsent: boolean
      readonly stale: boolean
    }

const MAX_HEADER_BYTES = 64 * 1024
const REPEATABLE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

/** Begins a request to the service; undefined when HTTP/1.1 cannot carry it. */
export function openRequest(
  exchange: Exchange,
  to: Destination,
  method: string,
  headers: readonly string[],
): ClientRequest | undefined {
  try {
    return httpRequest({
      agent: to.upstream.agent(to.tls),
      host: to.upstream.address,
      port: to.port,
      method,
      path: exchange.path,
      headers,
      setHost: false,
      maxHeaderSize: MAX_HEADER_BYTES,
    })
  } catch {
    // Node refuses characters that HTTP/1.1 cannot carry.
    return undefined
  }
}

function carryBody(exchange: Exchange, outgoing: ClientRequest, started: () => void): void {
  if (!exchange.hasBody) {
    outgoing.end()
    return
  }
  // Only an established connection takes the body: until then the request can still be sent elsewhere.
  outgoing.once('socket', () => {
    started()
    exchange.sendContinue()
    pump(exchange.body, outgoing, () => {
      if (exchange.bodyAborted) outgoing.destroy()
      else outgoing.end()
    })
  })
}

/**
 * Sends the service's answer on: head at once, body as it comes. What the service says is not trusted: a head
 * that cannot be expressed towards the client, or a client just gone, breaks the exchange off.
 */
export function carryAnswer(exchange: Exchange, incoming: IncomingMessage): void {
  const status = incoming.statusCode ?? 502
  const bodyless = exchange.method === 'HEAD' || status === 204 || status === 304
  const breakOff = (): void => {
    exchange.reset()
    incoming.destroy()
  }
  incoming.on('error', breakOff)
  try {
    const headers = endToEndHeaders(incoming.rawHeaders)
    const sink = exchange.answer(status, incoming.statusMessage ?? '', headers, bodyless)
    pump(incoming, sink, () => exchange.end(incoming.rawTrailers))
  } catch {
    breakOff()
  }
}

/** Breaks off what the exchange has open behind the edge, and the exchange when its sandbox ends. */
export interface Supervision {
  done(): boolean
  release(): void
}

/**
 * Ties the request to its exchange: the client's leaving, the sandbox's end and the service's failure each
 * end both, and `resolve` gets the outcome once.
 */
export function superviseRequest(
  exchange: Exchange,
  upstream: Upstream,
  outgoing: ClientRequest,
  untouched: () => boolean,
  resolve: (outcome: Outcome) => void,
): Supervision {
  let done = false
  const finish = (outcome: Outcome): void => {
    if (done) return
    done = true
    release()
    resolve(outcome)
  }
  const release = upstream.track(() => {
    const { answered } = exchange
    // Before an answer the client can be told; afterwards only a reset shows that it is not whole.
    if (answered) exchange.reset()
    const unsent = outgoing.socket === null
    const isRepeatable = unsent || (REPEATABLE.has(exchange.method) && !exchange.hasBody)
    outgoing.destroy()
    finish(
      answered
        ? { kind: 'gone' }
        : {
            kind: 'failed',
            error: new Error('the sandbox is gone'),
            untouched: isRepeatable && untouched(),
            unsent,
            stale: false,
          },
    )
  })
  exchange.onClose((clean) => {
    // A request that is complete has given its connection back and counts as destroyed.
    if (!outgoing.destroyed) outgoing.destroy()
    finish(clean ? { kind: 'answered' } : { kind: 'gone' })
  })
  let incoming: IncomingMessage | undefined
  outgoing.once('response', (response) => {
    incoming = response
  })
  const failed = (error: Error): void => {
    if (exchange.answered) {
      // A body without announced length would end here as if it were whole.
      if (!incoming?.complete) exchange.reset()
      return
    }
    const stale = outgoing.reusedSocket && REPEATABLE.has(exchange.method) && !exchange.hasBody
    finish({ kind: 'failed', error, untouched: untouched(), unsent: outgoing.socket === null, stale })
  }
  outgoing.on('error', failed)
  outgoing.once('close', () => {
    if (!done && !exchange.answered) failed(new Error('the service closed without an answer'))
  })
  return { done: () => done, release }
}

/** Sends the request to the service and its answer back, both as streams. Never throws. */
export function forward(exchange: Exchange, to: Destination): Promise<Outcome> {
  const outgoing = openRequest(exchange, to, exchange.method, requestHeaders(exchange, to.host))
  if (!outgoing) return Promise.resolve({ kind: 'malformed' })
  return new Promise((resolve) => {
    let untouched = true
    const finish = superviseRequest(exchange, to.upstream, outgoing, () => untouched, resolve)
    outgoing.on('response', (incoming) => {
      if (finish.done()) incoming.destroy()
      else carryAnswer(exchange, incoming)
    })
    carryBody(exchange, outgoing, () => {
      untouched = false
    })
  })
}
