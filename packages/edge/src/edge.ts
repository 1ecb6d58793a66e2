import { once } from 'node:events'
import type { Server, Socket } from 'node:net'
import type { Client } from '@connectrpc/connect'
import type { Directory } from '@sandbox/contract/gen/directory/directory_pb'
import { type Logger, pino } from 'pino'
import { forward } from './forward.ts'
import { type ApiPlace, Handler } from './handler.ts'
import { type ConnectionTimes, createPlainListener, createTlsListener, type Receiver } from './listeners.ts'
import { Routes } from './routes.ts'
import { hostName } from './target.ts'
import { tunnel } from './tunnel.ts'
import { Upstream } from './upstream.ts'

export interface ListenAddress {
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
}

export interface EdgeOptions {
  /** Public domain; a port in it is ignored. The API is at `api.{domain}`. */
  readonly domain: string
  /** Base URL of the API behind the edge, e.g. `http://127.0.0.1:3000`. Its path is not used. */
  readonly apiUrl: string
  /** Who knows where sandboxes are. */
  readonly directory: Client<typeof Directory>
  /** HTTP/2 and HTTP/1.1 over TLS; `key` and `cert` are PEM. Absent: no such listener. */
  readonly tls?: ListenAddress & { readonly key: string; readonly cert: string }
  /** HTTP/1.1 without TLS. Absent: no such listener. */
  readonly http?: ListenAddress
  /** Requests and tunnels of one sandbox at once; more are answered 429. Absent: no bound. */
  readonly maxPerSandbox?: number
  /** How long HTTP/2 connections may carry nothing. Absent: a minute before their first request, then 620 s. */
  readonly connectionTimes?: ConnectionTimes
  readonly log?: Logger
}

export interface Edge {
  /** Binds the listeners and returns their ports. Throws when one is taken (EADDRINUSE). */
  listen(): Promise<{ readonly tlsPort?: number; readonly httpPort?: number }>
  /** Stops listening, lets exchanges under way finish for `graceMs` (default 0), then breaks them off. */
  close(graceMs?: number): Promise<void>
}

function apiPlace(options: EdgeOptions): ApiPlace {
  const url = new URL(options.apiUrl)
  const tls = url.protocol === 'https:'
  return {
    publicHost: `api.${hostName(options.domain)}`,
    upstream: new Upstream(url.hostname.replace(/^\[|\]$/g, '')),
    port: Number(url.port) || (tls ? 443 : 80),
    tls,
  }
}

/** Binds, and remembers connections so that `close` can end them. */
class Listener {
  readonly #server: Server
  readonly #address: ListenAddress
  readonly #connections = new Set<Socket>()

  constructor(server: Server, address: ListenAddress) {
    this.#server = server
    this.#address = address
    server.on('connection', (socket: Socket) => {
      this.#connections.add(socket)
      socket.once('close', () => this.#connections.delete(socket))
    })
  }

  async listen(): Promise<number> {
    this.#server.listen({ ...this.#address, backlog: 4096 })
    await once(this.#server, 'listening')
    const address = this.#server.address()
    return typeof address === 'object' && address ? address.port : this.#address.port
  }

  stopListening(): void {
    if (this.#server.listening) this.#server.close()
  }

  destroyConnections(): void {
    for (const socket of this.#connections) socket.destroy()
  }
}

/** Builds the sandbox proxy. It follows the directory from now on; `close` ends that too. */
export async function createEdge(options: EdgeOptions): Promise<Edge> {
  const log = options.log ?? pino({ level: 'silent' })
  const routes = new Routes(options.directory, log)
  const api = apiPlace(options)
  const handler = new Handler(api, routes, log, options.maxPerSandbox)
  const receiver: Receiver = {
    request: (exchange) => void handler.handle(exchange, forward),
    upgrade: (exchange, upgrade) =>
      void handler.handle(exchange, (carried, to) => tunnel(carried, to, upgrade)),
  }
  const tls =
    options.tls &&
    new Listener(createTlsListener(receiver, options.tls, options.connectionTimes), options.tls)
  const http = options.http && new Listener(createPlainListener(receiver), options.http)
  const watching = routes.watch()
  return {
    async listen() {
      const tlsPort = await tls?.listen()
      const httpPort = await http?.listen()
      log.info({ tlsPort, httpPort }, 'edge listening')
      return {
        ...(tlsPort === undefined ? {} : { tlsPort }),
        ...(httpPort === undefined ? {} : { httpPort }),
      }
    },
    async close(graceMs = 0) {
      tls?.stopListening()
      http?.stopListening()
      if (graceMs > 0) await new Promise((resume) => setTimeout(resume, graceMs))
      routes.close()
      api.upstream.reset()
      tls?.destroyConnections()
      http?.destroyConnections()
      await watching
    },
  }
}
