/**
 * Where guests find their host: the firewall leads `eventsAddress` here from every slot, and the slot's address says
 * which sandbox speaks. The other end is hostile: every size, number and time is bounded, and nothing is answered
 * that the guest does not know already.
 */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { Logger } from 'pino'
import { parseLogLines } from './log-line.ts'
import type { LogRelay } from './log-relay.ts'

export interface EventListenerOptions {
  /** Where to listen: `NetworkSlots.eventsEndpoint`. The firewall admits slots only. */
  address: string
  port: number
  /** The sandbox that runs in the slot of an address. */
  sandboxAt: (address: string) => string | undefined
  relay: LogRelay
  log: Logger
  /** Connections of one sandbox. Default 4; more are reset. */
  maxConnectionsPerSandbox?: number
  /** Connections of all. Default 1,024. */
  maxConnections?: number
  /** Bodies that are being read, together. Default 16 MiB. */
  maxBufferedBytes?: number
  /** A request has to be there whole within this. Default 10,000. */
  requestTimeoutMs?: number
}

const LONGEST_BODY_BYTES = 64 * 1024
const LONGEST_HEADERS_BYTES = 8 * 1024
const CHECK_EVERY_MS = 2_000

class Refusal extends Error {
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.name = 'Refusal'
    this.status = status
  }
}

export class EventListener {
  readonly #options: Required<EventListenerOptions>
  readonly #connections = new Map<string, number>()
  readonly #sandboxes = new WeakMap<Socket, string>()
  #bufferedBytes = 0
  #server: Server | undefined

  constructor(options: EventListenerOptions) {
    this.#options = {
      maxConnectionsPerSandbox: 4,
      maxConnections: 1_024,
      maxBufferedBytes: 16 * 2 ** 20,
      requestTimeoutMs: 10_000,
      ...options,
    }
  }

  /** Throws EADDRNOTAVAIL before `NetworkSlots.start` made the address, EADDRINUSE when the port is taken. */
  async start(): Promise<void> {
    const { address, port, maxConnections, requestTimeoutMs } = this.#options
    const server = createServer({
      maxHeaderSize: LONGEST_HEADERS_BYTES,
      headersTimeout: requestTimeoutMs,
      requestTimeout: requestTimeoutMs,
      connectionsCheckingInterval: Math.min(CHECK_EVERY_MS, requestTimeoutMs),
      keepAlive: false,
    })
    this.#server = server
    server.maxConnections = maxConnections
    server.on('connection', (socket) => this.#admit(socket))
    server.on('request', (request, response) => void this.#answer(request, response))
    server.listen({ host: address, port, backlog: 256 })
    await once(server, 'listening')
  }

  async stop(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (!server) return
    const closed = once(server, 'close')
    server.close()
    server.closeAllConnections()
    await closed
  }

  /** A connection belongs to who runs in the slot when it begins, for ever. */
  #admit(socket: Socket): void {
    socket.on('error', () => {})
    const sandboxId = this.#options.sandboxAt(socket.remoteAddress ?? '')
    const count = sandboxId === undefined ? 0 : (this.#connections.get(sandboxId) ?? 0)
    if (sandboxId === undefined || count >= this.#options.maxConnectionsPerSandbox) {
      socket.resetAndDestroy()
      return
    }
    this.#sandboxes.set(socket, sandboxId)
    this.#connections.set(sandboxId, count + 1)
    socket.once('close', () => {
      const left = (this.#connections.get(sandboxId) ?? 1) - 1
      if (left > 0) this.#connections.set(sandboxId, left)
      else this.#connections.delete(sandboxId)
    })
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // One request a connection: the firewall bounds how many of these a slot may open.
    response.shouldKeepAlive = false
    try {
      const sandboxId = this.#sandboxes.get(request.socket)
      if (
        sandboxId === undefined ||
        sandboxId !== this.#options.sandboxAt(request.socket.remoteAddress ?? '')
      ) {
        throw new Refusal(400, 'Error when finding source sandbox')
      }
      const answer = await this.#handle(sandboxId, request)
      send(response, 200, answer)
    } catch (error) {
      if (!(error instanceof Refusal)) this.#options.log.debug({ event: 'guest.request_failed', err: error })
      const status = error instanceof Refusal ? error.status : 500
      const message = error instanceof Refusal ? error.message : 'Internal error'
      send(response, status, { code: status, message })
    }
  }

  async #handle(sandboxId: string, request: IncomingMessage): Promise<object | undefined> {
    const path = request.url?.split('?', 1)[0]
    if (request.method === 'GET' && path === '/me') return { sandboxID: sandboxId }
    if (path !== '/logs' && path !== '/') throw new Refusal(404, 'path not found')
    if (request.method !== 'POST') throw new Refusal(405, 'method not allowed')
    const body = await this.#body(request)
    const lines = (() => {
      try {
        return parseLogLines(body, Date.now())
      } catch (error) {
        throw new Refusal(400, `Invalid body for logs: ${error instanceof Error ? error.message : ''}`)
      }
    })()
    if (lines.length > 0 && !this.#options.relay.offer({ sandboxId, lines })) {
      throw new Refusal(429, 'Too many log lines, try again later')
    }
    return undefined
  }

  async #body(request: IncomingMessage): Promise<string> {
    const chunks: Buffer[] = []
    let size = 0
    try {
      for await (const chunk of request as AsyncIterable<Buffer>) {
        size += chunk.length
        this.#bufferedBytes += chunk.length
        if (size > LONGEST_BODY_BYTES)
          throw new Refusal(413, `At most ${LONGEST_BODY_BYTES} bytes in one request`)
        if (this.#bufferedBytes > this.#options.maxBufferedBytes)
          throw new Refusal(503, 'Busy, try again later')
        chunks.push(chunk)
      }
    } finally {
      this.#bufferedBytes -= size
    }
    return Buffer.concat(chunks).toString('utf8')
  }
}

function send(response: ServerResponse, status: number, body: object | undefined): void {
  if (response.destroyed || response.headersSent) return
  response.writeHead(status, body ? { 'Content-Type': 'application/json' } : { 'Content-Length': 0 })
  response.end(body ? JSON.stringify(body) : undefined)
}
