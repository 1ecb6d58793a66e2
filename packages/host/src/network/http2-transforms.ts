/** The HTTP/2 side of header transforms: requests of a guest's connection, sent on in HTTP/2 or HTTP/1.1. */
import { once } from 'node:events'
import { type Agent, type IncomingMessage, request } from 'node:http'
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  createServer,
  type Http2Server,
  type Http2Stream,
  type IncomingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2'
import type { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { TLSSocket } from 'node:tls'
import { http2Headers, isForHost, withHttp2HeadersSet } from './http-headers.ts'

const maxConcurrentStreams = 100
/** Requests at once, each with a connection of its own, to a server that speaks HTTP/1.1 only; others wait. */
const maxHttp1Requests = 16
/** Most a connection may hold in memory, MB. */
const maxSessionMemory = 16

/** Where the requests of one connection go. */
export interface Http2Route {
  /** Host name of every request; others are refused. */
  name: string
  headers: Readonly<Record<string, string>>
  /** Connects to the real server, which may choose HTTP/2 by ALPN. */
  connect: () => Promise<TLSSocket>
  /** HTTP/1.1 connections to a server that does not; takes the first one over. */
  agentFrom: (first: TLSSocket) => Agent
}

type Upstream = { session: ClientHttp2Session } | { agent: Agent }

export class Http2Transforms {
  readonly #server: Http2Server
  readonly #connections = new WeakMap<object, Connection>()

  constructor() {
    this.#server = createServer({ settings: { maxConcurrentStreams }, maxSessionMemory })
    this.#server.on('stream', (stream, headers) => this.#onStream(stream, headers))
    this.#server.on('sessionError', () => {})
  }

  /** Takes over a connection on which HTTP/2 was agreed. */
  carry(guest: TLSSocket, route: Http2Route): void {
    const connection = new Connection(route)
    guest.once('close', () => connection.close())
    // The connection below may stay half open; nothing in HTTP/2 goes on after its end.
    guest.once('end', () => guest.destroy())
    this.#server.once('session', (session) => this.#connections.set(session, connection))
    this.#server.emit('connection', guest)
  }

  #onStream(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): void {
    stream.on('error', () => {})
    const connection = stream.session && this.#connections.get(stream.session)
    if (!connection) stream.close(constants.NGHTTP2_REFUSED_STREAM)
    else connection.forward(stream, headers).catch(() => fail(stream))
  }
}

/** One connection of a guest, and the one to the server that its first request makes. */
class Connection {
  readonly #route: Http2Route
  readonly #turns = new Turns(maxHttp1Requests)
  #upstream: Promise<Upstream> | undefined
  #isClosed = false

  constructor(route: Http2Route) {
    this.#route = route
  }

  close(): void {
    this.#isClosed = true
    this.#upstream?.then(closeUpstream, () => {})
  }

  async forward(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): Promise<void> {
    const { name } = this.#route
    const { ':authority': authority, ':method': method, ':path': path, host } = headers
    if (!isForHost(authority ?? host, name) || (host !== undefined && !isForHost(host, name))) {
      answerText(stream, 421, 'This connection is for another host.\n')
      return
    }
    if (method === undefined || path === undefined) {
      answerText(stream, 405, 'This method opens a tunnel, which this connection does not carry.\n')
      return
    }
    if (headers.expect !== undefined) stream.additionalHeaders({ ':status': 100 })
    const upstream = await this.#connected()
    if (stream.destroyed) return
    const sent = withHttp2HeadersSet(headers, this.#route.headers)
    const asked = { method, path, authority: authority ?? name }
    if ('session' in upstream) await sendHttp2(stream, upstream.session, asked, sent)
    else await this.#turns.take(() => sendHttp1(stream, upstream.agent, asked, sent))
  }

  /** Requests that come while the first of them connects share what it makes. */
  #connected(): Promise<Upstream> {
    if (!this.#upstream) {
      const upstream = this.#connect()
      this.#upstream = upstream
      const forget = (): void => {
        if (this.#upstream === upstream) this.#upstream = undefined
      }
      upstream.then((made) => {
        if ('session' in made) made.session.once('goaway', forget).once('close', forget)
      }, forget)
    }
    return this.#upstream
  }

  async #connect(): Promise<Upstream> {
    const socket = await this.#route.connect()
    const upstream = await this.#over(socket)
    if (this.#isClosed) closeUpstream(upstream)
    return upstream
  }

  async #over(socket: TLSSocket): Promise<Upstream> {
    if (socket.alpnProtocol !== 'h2') return { agent: this.#route.agentFrom(socket) }
    const session = connect(`https://${this.#route.name}`, {
      createConnection: () => socket,
      maxSessionMemory,
    })
    session.on('error', () => {})
    await once(session, 'remoteSettings')
    return { session }
  }
}

/** Lets so many run at once, in order. */
class Turns {
  readonly #waiting: (() => void)[] = []
  #free: number

  constructor(limit: number) {
    this.#free = limit
  }

  async take(run: () => Promise<void>): Promise<void> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
    try {
      await run()
    } finally {
      const next = this.#waiting.shift()
      if (next) next()
      else this.#free++
    }
  }
}

interface Asked {
  method: string
  path: string
  authority: string
}

function closeUpstream(upstream: Upstream): void {
  if ('session' in upstream) upstream.session.destroy()
  else upstream.agent.destroy()
}

async function sendHttp2(
  stream: ServerHttp2Stream,
  session: ClientHttp2Session,
  { method, path, authority }: Asked,
  headers: Record<string, unknown>,
): Promise<void> {
  const pseudo = { ':method': method, ':path': path, ':scheme': 'https', ':authority': authority }
  // Said as the guest says it: Node would end by itself what some methods rarely have a body for.
  const hasBody = !stream.endAfterHeaders
  const outgoing = session.request({ ...pseudo, ...headers }, { endStream: !hasBody })
  outgoing.on('error', () => {})
  outgoing.once('close', () => {
    if (!stream.headersSent) fail(stream)
  })
  stream.once('close', () => outgoing.destroy())
  const sent = hasBody ? copied(stream, outgoing).catch(() => outgoing.destroy()) : undefined
  await received(stream, outgoing)
  await sent
}

/** Head, body and trailers of the answer; gRPC has its status in the last. */
async function received(stream: ServerHttp2Stream, outgoing: ClientHttp2Stream): Promise<void> {
  const [head, flags] = (await once(outgoing, 'response')) as [IncomingHttpHeaders, number]
  if (stream.destroyed) return
  const answer = { ':status': Number(head[':status']), ...http2Headers(head) }
  if (flags & constants.NGHTTP2_FLAG_END_STREAM) {
    stream.respond(answer, { endStream: true })
    return
  }
  let trailers: IncomingHttpHeaders = {}
  outgoing.on('trailers', (last: IncomingHttpHeaders) => {
    trailers = last
  })
  stream.respond(answer, { waitForTrailers: true })
  stream.once('wantTrailers', () => stream.sendTrailers(http2Headers(trailers)))
  await copied(outgoing, stream)
}

/** A reset, too, ends what is read, and its error comes later: that end must not pass for the whole message. */
async function copied(from: Http2Stream & Readable, to: Writable): Promise<void> {
  await pipeline(from, to, { end: false })
  if (from.rstCode !== constants.NGHTTP2_NO_ERROR) throw new Error('the stream was reset')
  to.end()
}

async function sendHttp1(
  stream: ServerHttp2Stream,
  agent: Agent,
  { method, path, authority }: Asked,
  headers: Record<string, unknown>,
): Promise<void> {
  if (stream.destroyed) return
  const outgoing = request({
    agent,
    method,
    path,
    headers: { ...(headers as Record<string, string | string[]>), host: authority },
  })
  stream.once('close', () => outgoing.destroy())
  const sent = copied(stream, outgoing).catch(() => outgoing.destroy())
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
  if (stream.destroyed) return
  stream.respond({ ':status': response.statusCode ?? 502, ...http2Headers(response.headers) })
  await pipeline(response, stream)
  await sent
}

/** A request that found no server, or lost it: an answer where none has begun, a reset where one has. */
function fail(stream: ServerHttp2Stream): void {
  if (stream.destroyed) return
  // Closing would end it in good order first.
  if (stream.headersSent) stream.destroy(new Error('the server went away'))
  else answerText(stream, 502, 'The server does not answer, or not with a valid certificate.\n')
}

function answerText(stream: ServerHttp2Stream, status: number, text: string): void {
  if (stream.destroyed) return
  stream.respond({ ':status': status, 'content-type': 'text/plain; charset=utf-8' })
  stream.end(text)
  stream.resume()
}
