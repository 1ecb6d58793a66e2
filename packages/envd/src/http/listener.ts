import { createServer as createHttpServer } from 'node:http'
import { createServer, type Server, type Socket } from 'node:net'
import type { RequestHandler } from './exchange.ts'

/** Longer than the idle limit of any proxy in front. */
const KEEP_ALIVE_MS = 640_000
const HTTP2_PREFACE = Buffer.from('PRI * HTTP/2.0')

/**
 * A server that speaks HTTP/1.1 and HTTP/2 without TLS on one port. It sets no timer of its own, so an idle agent
 * stays asleep; HTTP/2 is loaded with the first connection that speaks it.
 */
export function createListener(handler: RequestHandler): Server {
  const http1 = createHttpServer({
    keepAliveTimeout: KEEP_ALIVE_MS,
  })
  http1.on('request', handler)
  http1.requestTimeout = 0
  http1.headersTimeout = 0
  let http2: Promise<(socket: Socket) => void> | undefined
  return createServer({ noDelay: true }, (socket) => {
    socket.on('error', () => socket.destroy())
    socket.once('readable', () => {
      const start: Buffer | null = socket.read()
      if (!start) return
      socket.unshift(start)
      const isHttp2 = start.length >= 3 && HTTP2_PREFACE.subarray(0, start.length).equals(prefix(start))
      if (!isHttp2) {
        http1.emit('connection', socket)
        return
      }
      http2 ??= loadHttp2(handler)
      void http2.then((accept) => accept(socket))
    })
  })
}

const prefix = (bytes: Buffer): Buffer => bytes.subarray(0, HTTP2_PREFACE.length)

async function loadHttp2(handler: RequestHandler): Promise<(socket: Socket) => void> {
  const { createServer: createHttp2Server } = await import('node:http2')
  const server = createHttp2Server({ settings: { maxConcurrentStreams: 250 } }, handler)
  return (socket) => {
    server.emit('connection', socket)
  }
}
