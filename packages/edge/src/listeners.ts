import {
  createServer,
  type IncomingMessage,
  type Server,
  type ServerOptions,
  ServerResponse,
} from 'node:http'
import {
  createServer as createHttp2Server,
  type Http2Server,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2'
import { createServer as createHttpsServer } from 'node:https'
import type { Duplex } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import type { Exchange } from './exchange.ts'
import { endToEndHeaders } from './headers.ts'
import { Http1Exchange } from './http1-exchange.ts'
import { Http2Exchange } from './http2-exchange.ts'
import type { Upgrade } from './tunnel.ts'

/** What the listeners feed. */
export interface Receiver {
  request(exchange: Exchange): void
  upgrade(exchange: Exchange, upgrade: Upgrade): void
}

const MAX_CONCURRENT_STREAMS = 250
const STREAM_WINDOW_BYTES = 1024 * 1024
const CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
const MAX_SESSION_MEMORY_MIB = 64
const MAX_HEADER_BYTES = 64 * 1024
const FLAG_END_STREAM = 0x1
const LINGER_MS = 2000
/** A connection has this long for its first request. */
const FIRST_REQUEST_MS = 60_000
/** Longer than load balancers in front keep connections, so that a reused one is never half closed. */
const IDLE_MS = 620_000

const HTTP1_OPTIONS: ServerOptions = {
  noDelay: true,
  // Peers that vanish without a word are noticed, and what they hold is given back.
  keepAlive: true,
  keepAliveInitialDelay: 60_000,
  maxHeaderSize: MAX_HEADER_BYTES,
  headersTimeout: FIRST_REQUEST_MS,
  // Uploads take as long as they take; the time-out of the head bounds idle senders.
  requestTimeout: 0,
  keepAliveTimeout: IDLE_MS,
  // Nobody needs HTTP/2 without TLS here: such an offer is answered in HTTP/1.1.
  shouldUpgradeCallback: (request) => request.headers.upgrade?.toLowerCase() !== 'h2c',
}

/** The client's acceptance as HTTP/1.1 writes it. */
function switchingHead(incoming: IncomingMessage): string {
  const headers = endToEndHeaders(incoming.rawHeaders)
  headers.push('Connection', 'Upgrade', 'Upgrade', incoming.headers.upgrade ?? '')
  let head = `HTTP/1.1 101 ${incoming.statusMessage || 'Switching Protocols'}\r\n`
  for (let at = 0; at + 1 < headers.length; at += 2) head += `${headers[at]}: ${headers[at + 1]}\r\n`
  return `${head}\r\n`
}

/**
 * Ends a connection after its last answer. Its client may keep its own side open: what it still sends is thrown away for
 * a while, since a close before unread bytes is a reset, which can cost the client the answer.
 */
function leave(socket: Duplex): void {
  socket.end()
  socket.resume()
  setTimeout(() => socket.destroy(), LINGER_MS).unref()
}

function onUpgrade(receiver: Receiver, request: IncomingMessage, socket: Duplex, head: Buffer): void {
  const response = new ServerResponse(request)
  response.shouldKeepAlive = false
  response.assignSocket(request.socket)
  response.once('finish', () => leave(socket))
  socket.on('error', () => {})
  if (head.length > 0) socket.unshift(head)
  receiver.upgrade(new Http1Exchange(request, response, { lastOnConnection: true }), {
    protocol: request.headers.upgrade ?? '',
    accept: (incoming) => {
      response.detachSocket(request.socket)
      socket.write(switchingHead(incoming), 'latin1')
      return socket
    },
  })
}

function serveHttp1(server: Server, receiver: Receiver): void {
  server.on('request', (request, response) => receiver.request(new Http1Exchange(request, response)))
  server.on('checkContinue', (request, response) =>
    receiver.request(new Http1Exchange(request, response, { expectsContinue: true })),
  )
  server.on('upgrade', (request, socket, head) => onUpgrade(receiver, request, socket, head))
  server.on('clientError', (_error, socket) => {
    if (socket.writable) {
      socket.write('HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n')
      leave(socket)
    } else socket.destroy()
  })
}

/** The plain HTTP/1.1 listener. */
export function createPlainListener(receiver: Receiver): Server {
  const server = createServer(HTTP1_OPTIONS)
  serveHttp1(server, receiver)
  return server
}

function onStream(receiver: Receiver, stream: ServerHttp2Stream, flags: number, rawHeaders: string[]): void {
  const exchange = new Http2Exchange(stream, rawHeaders, (flags & FLAG_END_STREAM) !== 0, true)
  const { protocol } = exchange
  if (exchange.method !== 'CONNECT') receiver.request(exchange)
  else if (!protocol) stream.respond({ ':status': 405 }, { endStream: true })
  else {
    receiver.upgrade(exchange, {
      protocol,
      accept: (incoming) => {
        exchange.answer(200, '', tunnelAnswerHeaders(incoming), false)
        return stream
      },
    })
  }
}

/** The proof of the handshake belongs to HTTP/1.1 alone. */
function tunnelAnswerHeaders(incoming: IncomingMessage): string[] {
  const headers = endToEndHeaders(incoming.rawHeaders)
  const kept: string[] = []
  for (let at = 0; at + 1 < headers.length; at += 2) {
    if (headers[at]!.toLowerCase() !== 'sec-websocket-accept') kept.push(headers[at]!, headers[at + 1]!)
  }
  return kept
}

/** How long connections of clients may carry nothing, in milliseconds. */
export interface ConnectionTimes {
  readonly firstRequestMs: number
  readonly idleMs: number
}

/** Ends a session that carries nothing: Node lets them stand for ever, and each holds a descriptor of this process. */
function limitIdleSession(session: ServerHttp2Session, { firstRequestMs, idleMs }: ConnectionTimes): void {
  let open = 0
  session.setTimeout(firstRequestMs)
  session.on('timeout', () => {
    if (open === 0) session.close()
  })
  session.on('stream', (stream: ServerHttp2Stream) => {
    open++
    session.setTimeout(idleMs)
    // The time begins anew with the last frame of a stream, so one that was quiet for longer is not the end.
    stream.once('close', () => {
      open--
      if (!session.destroyed) session.setTimeout(idleMs)
    })
  })
}

function createHttp2Side(receiver: Receiver, times: ConnectionTimes): Http2Server {
  const http2 = createHttp2Server({
    settings: {
      maxConcurrentStreams: MAX_CONCURRENT_STREAMS,
      initialWindowSize: STREAM_WINDOW_BYTES,
      enableConnectProtocol: true,
    },
    maxSessionMemory: MAX_SESSION_MEMORY_MIB,
  })
  http2.on('session', (session) => {
    session.setLocalWindowSize(CONNECTION_WINDOW_BYTES)
    limitIdleSession(session, times)
  })
  http2.on(
    'stream',
    (stream: ServerHttp2Stream, _headers: IncomingHttpHeaders, flags: number, rawHeaders: string[]) =>
      onStream(receiver, stream, flags, rawHeaders),
  )
  return http2
}

/** The TLS listener: ALPN decides between HTTP/2 and HTTP/1.1. `key` and `cert` are PEM. */
export function createTlsListener(
  receiver: Receiver,
  identity: { key: string; cert: string },
  times: ConnectionTimes = { firstRequestMs: FIRST_REQUEST_MS, idleMs: IDLE_MS },
) {
  const server = createHttpsServer({ ...HTTP1_OPTIONS, ...identity, ALPNProtocols: ['h2', 'http/1.1'] })
  serveHttp1(server, receiver)
  const http2 = createHttp2Side(receiver, times)
  // The server's own listener speaks HTTP/1.1 to every connection; only those that chose it may reach it.
  const [serveConnection] = server.listeners('secureConnection')
  server.removeAllListeners('secureConnection')
  server.on('secureConnection', (socket: TLSSocket) => {
    if (socket.alpnProtocol === 'h2') http2.emit('connection', socket)
    else serveConnection?.call(server, socket)
  })
  // Handshakes that fail are the client's affair.
  server.on('tlsClientError', (_error, socket) => socket.destroy())
  return server
}
