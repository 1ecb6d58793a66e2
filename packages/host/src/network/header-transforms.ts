/**
 * Ends the TLS of connections to which a rule applies, sets the rule's headers on every request, and sends them on
 * over a verified connection to the real server. HTTP/1.1 with upgrades here, HTTP/2 in `Http2Transforms`.
 */
import {
  Agent,
  type ClientRequest,
  createServer,
  type IncomingMessage,
  type RequestOptions,
  request,
  type Server,
  type ServerResponse,
} from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { connect as connectTls, TLSSocket } from 'node:tls'
import type { EgressAuthority } from './egress-authority.ts'
import { headerPairs, isForHost, withHeadersSet, withoutHops } from './http-headers.ts'
import { Http2Transforms } from './http2-transforms.ts'
import { splice } from './splice.ts'

const handshakeTimeoutMs = 10_000
const http1 = 'http/1.1'
const http2 = 'h2'
const noAnswer = 'The server does not answer, or not with a valid certificate.\n'

export interface Transformed {
  /** Server name that the client asked for. */
  name: string
  headers: Readonly<Record<string, string>>
  /** Connects to the server of that name. */
  dial: () => Promise<Socket>
}

interface Route extends Transformed {
  agent: Agent
}

export class HeaderTransforms {
  readonly #authority: EgressAuthority
  readonly #serverCa: string | undefined
  readonly #routes = new WeakMap<Duplex, Route>()
  readonly #http: Server
  readonly #http2 = new Http2Transforms()

  /** @param serverCa PEM authorities for the real servers instead of the usual ones */
  constructor(authority: EgressAuthority, serverCa?: string) {
    this.#authority = authority
    this.#serverCa = serverCa
    this.#http = createServer((incoming, answer) => this.#forward(incoming, answer))
    // It never listens: connections are given to it. Uploads may take as long as they do.
    this.#http.requestTimeout = 0
    this.#http.on('upgrade', (incoming, socket, head) => this.#upgrade(incoming, socket, head))
  }

  /** Takes a connection over whose ClientHello has not been read yet. */
  async carry(client: Socket, transformed: Transformed): Promise<void> {
    const secureContext = await this.#authority.contextFor(transformed.name)
    if (client.destroyed) return
    const guest = new TLSSocket(client, { isServer: true, secureContext, ALPNProtocols: [http2, http1] })
    const timer = setTimeout(() => guest.destroy(), handshakeTimeoutMs)
    guest.on('error', () => guest.destroy())
    guest.once('close', () => clearTimeout(timer))
    guest.once('secure', () => {
      clearTimeout(timer)
      // As a TLS server does it; HTTP/2 waits until it is so.
      Object.assign(guest, { secureConnecting: false })
      if (guest.alpnProtocol === http2) this.#serveHttp2(guest, transformed)
      else this.#serveHttp1(guest, transformed)
    })
  }

  #serveHttp1(guest: TLSSocket, transformed: Transformed): void {
    const agent = new ServerAgent(1, () => this.#connect(transformed, [http1]))
    this.#routes.set(guest, { ...transformed, agent })
    guest.once('close', () => agent.destroy())
    this.#http.emit('connection', guest)
  }

  #serveHttp2(guest: TLSSocket, transformed: Transformed): void {
    const { name, headers } = transformed
    this.#http2.carry(guest, {
      name,
      headers,
      connect: () => this.#connect(transformed, [http2, http1]),
      agentFrom: (first) => {
        let next: TLSSocket | undefined = first
        return new ServerAgent(Number.POSITIVE_INFINITY, async () => {
          const taken = next
          next = undefined
          return taken ?? this.#connect(transformed, [http1])
        })
      },
    })
  }

  async #connect({ name, dial }: Transformed, ALPNProtocols: string[]): Promise<TLSSocket> {
    const tcp = await dial()
    const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>()
    const server = connectTls({
      socket: tcp,
      host: name,
      servername: name,
      ALPNProtocols,
      ...(this.#serverCa === undefined ? {} : { ca: this.#serverCa }),
    })
    const timer = setTimeout(() => server.destroy(new Error('no handshake')), handshakeTimeoutMs)
    server.on('error', reject)
    server.once('close', () => reject(new Error('the server hung up')))
    server.once('secureConnect', () => resolve(server))
    return promise.finally(() => clearTimeout(timer))
  }

  #forward(incoming: IncomingMessage, answer: ServerResponse): void {
    const route = this.#routes.get(incoming.socket)
    if (!route || !isForHost(incoming.headers.host, route.name)) {
      answer.writeHead(421).end('This connection is for another host.\n')
      return
    }
    const fail = (): void => {
      if (answer.headersSent) answer.destroy()
      // All of the head said anew: one that could not be sent has left traces.
      else answer.writeHead(502, 'Bad Gateway', { 'Content-Length': noAnswer.length }).end(noAnswer)
    }
    const headers = withHeadersSet(incoming.rawHeaders, route.headers)
    const outgoing = begun({ ...target(incoming), agent: route.agent, headers })
    if (!outgoing) {
      fail()
      return
    }
    outgoing.on('response', (response) => {
      if (passedHead(response, answer)) pipeline(response, answer).catch(() => answer.destroy())
      else outgoing.destroy(new Error('the head of the answer cannot be passed on'))
    })
    outgoing.on('error', fail)
    answer.on('close', () => outgoing.destroy())
    pipeline(incoming, outgoing).catch(() => outgoing.destroy())
  }

  #upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    const route = this.#routes.get(socket)
    if (!route || !(socket instanceof TLSSocket) || !isForHost(incoming.headers.host, route.name)) {
      socket.destroy()
      return
    }
    const headers = [...withHeadersSet(incoming.rawHeaders, route.headers), 'Connection', 'Upgrade']
    const outgoing = begun({ ...target(incoming), agent: route.agent, headers })
    if (!outgoing) {
      socket.destroy()
      return
    }
    outgoing.on('upgrade', (response, server, serverHead) => {
      const lines = [
        `HTTP/1.1 101 ${response.statusMessage ?? ''}`,
        ...headerPairs(response.rawHeaders).map(headerLine),
      ]
      socket.write(`${lines.join('\r\n')}\r\n\r\n`)
      if (serverHead.length > 0) socket.write(serverHead)
      if (head.length > 0) server.write(head)
      splice(socket, server as Socket)
    })
    outgoing.on('response', () => socket.destroy())
    outgoing.on('error', () => socket.destroy())
    outgoing.end()
  }
}

/** Connections to the server for one of the client, made when a request needs them. */
class ServerAgent extends Agent {
  readonly #connect: () => Promise<TLSSocket>

  constructor(maxSockets: number, connect: () => Promise<TLSSocket>) {
    super({ keepAlive: true, maxSockets })
    this.#connect = connect
  }

  override createConnection(
    _options: object,
    done: (error: Error | null, socket: Duplex) => void,
  ): undefined {
    this.#connect().then(
      (socket) => done(null, socket),
      // The stream is not looked at beside an error.
      (error: Error) => done(error, new Duplex()),
    )
  }
}

/** What Node's parser lets through Node may refuse to send: undefined then, as a throw would end this process. */
function begun(options: RequestOptions): ClientRequest | undefined {
  try {
    return request(options)
  } catch {
    return undefined
  }
}

/** False where Node refuses to send such a head on. */
function passedHead(response: IncomingMessage, answer: ServerResponse): boolean {
  try {
    answer.writeHead(response.statusCode ?? 502, response.statusMessage, withoutHops(response.rawHeaders))
    return true
  } catch {
    return false
  }
}

const target = ({ method, url }: IncomingMessage): { method: string; path: string } => ({
  method: method ?? 'GET',
  path: url ?? '/',
})

const headerLine = ([name, value]: [string, string]): string => `${name}: ${value}`
