/**
 * Ends the TLS of connections to which a rule applies, sets the rule's headers on every request, and sends them on
 * over a verified connection to the real server. HTTP/1.1 on both sides, with upgrades.
 */
import {
  Agent,
  createServer,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from 'node:http'
import type { Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { connect as connectTls, TLSSocket } from 'node:tls'
import type { EgressAuthority } from './egress-authority.ts'
import { splice } from './splice.ts'

const handshakeTimeoutMs = 10_000
/** Of one connection only, and not for the next server. */
const hopHeaders = new Set(['connection', 'keep-alive', 'proxy-connection', 'proxy-authorization'])

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
    const guest = new TLSSocket(client, { isServer: true, secureContext, ALPNProtocols: ['http/1.1'] })
    const agent = new ServerAgent(() => this.#connect(transformed))
    this.#routes.set(guest, { ...transformed, agent })
    const timer = setTimeout(() => guest.destroy(), handshakeTimeoutMs)
    guest.once('secure', () => clearTimeout(timer))
    guest.on('error', () => guest.destroy())
    guest.on('close', () => {
      clearTimeout(timer)
      agent.destroy()
    })
    this.#http.emit('connection', guest)
  }

  async #connect({ name, dial }: Transformed): Promise<TLSSocket> {
    const tcp = await dial()
    const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>()
    const server = connectTls({
      socket: tcp,
      host: name,
      servername: name,
      ALPNProtocols: ['http/1.1'],
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
    if (!route || !isFor(incoming, route.name)) {
      answer.writeHead(421).end('This connection is for another host.\n')
      return
    }
    const outgoing = request({
      ...target(incoming),
      agent: route.agent,
      headers: rewritten(incoming, route.headers),
    })
    outgoing.on('response', (response) => {
      answer.writeHead(response.statusCode ?? 502, response.statusMessage, withoutHops(response.rawHeaders))
      pipeline(response, answer).catch(() => answer.destroy())
    })
    outgoing.on('error', () => {
      if (answer.headersSent) answer.destroy()
      else answer.writeHead(502).end('The server does not answer, or not with a valid certificate.\n')
    })
    answer.on('close', () => outgoing.destroy())
    pipeline(incoming, outgoing).catch(() => outgoing.destroy())
  }

  #upgrade(incoming: IncomingMessage, socket: Duplex, head: Buffer): void {
    const route = this.#routes.get(socket)
    if (!route || !(socket instanceof TLSSocket) || !isFor(incoming, route.name)) {
      socket.destroy()
      return
    }
    const headers = [...rewritten(incoming, route.headers), 'Connection', 'Upgrade']
    const outgoing = request({ ...target(incoming), agent: route.agent, headers })
    outgoing.on('upgrade', (response, server, serverHead) => {
      const lines = [
        `HTTP/1.1 101 ${response.statusMessage ?? ''}`,
        ...pairs(response.rawHeaders).map(headerLine),
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

/** One connection to the server for each of the client, made when a request needs it. */
class ServerAgent extends Agent {
  readonly #connect: () => Promise<TLSSocket>

  constructor(connect: () => Promise<TLSSocket>) {
    super({ keepAlive: true, maxSockets: 1 })
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

const target = ({ method, url }: IncomingMessage): { method: string; path: string } => ({
  method: method ?? 'GET',
  path: url ?? '/',
})

const isFor = ({ headers }: IncomingMessage, name: string): boolean =>
  headers.host?.toLowerCase().replace(/(\.)?(:\d+)?$/, '') === name

function rewritten(incoming: IncomingMessage, set: Readonly<Record<string, string>>): string[] {
  const replaced = new Set(Object.keys(set).map((name) => name.toLowerCase()))
  const kept = pairs(withoutHops(incoming.rawHeaders)).filter(([name]) => !replaced.has(name.toLowerCase()))
  return [...kept, ...Object.entries(set)].flat()
}

const withoutHops = (rawHeaders: readonly string[]): string[] =>
  pairs(rawHeaders)
    .filter(([name]) => !hopHeaders.has(name.toLowerCase()))
    .flat()

function pairs(rawHeaders: readonly string[]): [string, string][] {
  const result: [string, string][] = []
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    result.push([rawHeaders[at] ?? '', rawHeaders[at + 1] ?? ''])
  }
  return result
}

const headerLine = ([name, value]: [string, string]): string => `${name}: ${value}`
