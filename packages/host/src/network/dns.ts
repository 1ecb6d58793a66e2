/**
 * Forwards the sandboxes' DNS queries to resolvers of this machine, which may be private addresses that guests
 * cannot reach themselves. Messages are passed on unparsed apart from id and size; answers that name private
 * addresses are passed on too: the firewall, not this, keeps guests away from them.
 */
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, createServer, isIPv6, type Server, type Socket } from 'node:net'
import { pipeline } from 'node:stream/promises'

const headerBytes = 12
const maxQueryBytes = 4096
const responseFlag = 0x80
const refusedCode = 5

export interface DnsForwarderOptions {
  /** Where to listen, UDP and TCP: `NetworkSlots.dnsEndpoint`. The firewall admits slots only. */
  address: string
  port: number
  /** Resolvers asked in order, each `{address, port}`; default: those of /etc/resolv.conf, read at start. */
  upstreams?: readonly DnsUpstream[]
  /** Addresses of resolvers for one sandbox; undefined for the above, empty refuses its queries. */
  resolversOf?: (client: string) => readonly string[] | undefined
  /** How long one resolver may take before the next is asked. Default 2,000. */
  upstreamTimeoutMs?: number
  /** Queries and TCP connections under way, of all sandboxes together. Default 1,024; more are dropped. */
  maxInFlight?: number
  /** The same for one sandbox, so that one cannot starve the others. Default 64. */
  maxInFlightPerClient?: number
}

export interface DnsUpstream {
  address: string
  port: number
}

export class DnsForwarder {
  readonly #options: Required<DnsForwarderOptions>
  readonly #inFlight = new Map<string, number>()
  readonly #open = new Set<UdpSocket | Socket>()
  #total = 0
  #udp: UdpSocket | undefined
  #tcp: Server | undefined

  constructor(options: DnsForwarderOptions) {
    this.#options = {
      upstreamTimeoutMs: 2_000,
      maxInFlight: 1_024,
      maxInFlightPerClient: 64,
      resolversOf: () => undefined,
      ...options,
      upstreams: options.upstreams ?? machineResolvers(),
    }
  }

  /** Throws EADDRNOTAVAIL before `NetworkSlots.start` made the address, EADDRINUSE when the port is taken. */
  async start(): Promise<void> {
    const { address, port } = this.#options
    const udp = createSocket('udp4')
    this.#udp = udp
    udp.bind(port, address)
    await once(udp, 'listening')
    udp.on('message', (query, client) => this.#onQuery(udp, query, client))
    // A send to a guest that has just gone may report it here; the query is lost either way.
    udp.on('error', () => {})
    const tcp = createServer((socket) => this.#onConnection(socket))
    this.#tcp = tcp
    tcp.listen(port, address)
    await once(tcp, 'listening')
  }

  async stop(): Promise<void> {
    const { promise: closed, resolve } = Promise.withResolvers<void>()
    if (this.#tcp) this.#tcp.close(() => resolve())
    else resolve()
    this.#udp?.close()
    this.#udp = undefined
    this.#tcp = undefined
    for (const socket of this.#open) 'destroy' in socket ? socket.destroy() : socket.close()
    await closed
  }

  #onQuery(udp: UdpSocket, query: Buffer, client: RemoteInfo): void {
    const isQuery = query.length >= headerBytes && ((query[2] ?? 0) & responseFlag) === 0
    // A guest with a kernel of its own may ask from port 0: nobody can be answered there, and Node throws.
    const isAnswerable = isQuery && client.port > 0
    if (!isAnswerable || query.length > maxQueryBytes || !this.#enter(client.address)) return
    this.#ask(query, this.#upstreamsOf(client.address))
      .then((answer) => {
        if (answer && this.#udp === udp) udp.send(answer, client.port, client.address)
      })
      // Nothing that a guest sends may end this process, and a query is lost easily.
      .catch(() => {})
      .finally(() => this.#leave(client.address))
  }

  #upstreamsOf(client: string): readonly DnsUpstream[] {
    const own = this.#options.resolversOf(client)
    return own?.map((address) => ({ address, port: 53 })) ?? this.#options.upstreams
  }

  async #ask(query: Buffer, upstreams: readonly DnsUpstream[]): Promise<Buffer | undefined> {
    if (upstreams.length === 0) return refusal(query)
    for (const upstream of upstreams) {
      const answer = await this.#askOne(query, upstream)
      if (answer) return answer
    }
    return undefined
  }

  /** A connected socket of its own for each query: the kernel picks a random port and drops other senders. */
  #askOne(query: Buffer, upstream: DnsUpstream): Promise<Buffer | undefined> {
    const { promise, resolve } = Promise.withResolvers<Buffer | undefined>()
    const socket = createSocket(isIPv6(upstream.address) ? 'udp6' : 'udp4')
    this.#open.add(socket)
    const timer = setTimeout(() => resolve(undefined), this.#options.upstreamTimeoutMs)
    socket.on('error', () => resolve(undefined))
    socket.on('close', () => resolve(undefined))
    socket.on('message', (answer) => {
      if (answer.length >= headerBytes && answer.readUInt16BE(0) === query.readUInt16BE(0)) resolve(answer)
    })
    socket.connect(upstream.port, upstream.address, () => socket.send(query))
    return promise.finally(() => {
      clearTimeout(timer)
      if (this.#open.delete(socket)) closeQuietly(socket)
    })
  }

  #onConnection(client: Socket): void {
    const address = client.remoteAddress
    const [upstream] = address === undefined ? [] : this.#upstreamsOf(address)
    if (!upstream || address === undefined || !this.#enter(address)) {
      client.on('error', () => {})
      client.resetAndDestroy()
      return
    }
    const server = connect(upstream.port, upstream.address)
    const sockets = [client, server]
    const lifetimeMs = this.#options.upstreamTimeoutMs * 5
    const timer = setTimeout(() => sockets.forEach((socket) => void socket.destroy()), lifetimeMs)
    for (const socket of sockets) this.#open.add(socket)
    Promise.allSettled([pipeline(client, server), pipeline(server, client)]).then(() => {
      clearTimeout(timer)
      for (const socket of sockets) {
        this.#open.delete(socket)
        socket.destroy()
      }
      this.#leave(address)
    })
  }

  #enter(client: string): boolean {
    const own = this.#inFlight.get(client) ?? 0
    if (this.#total >= this.#options.maxInFlight || own >= this.#options.maxInFlightPerClient) return false
    this.#inFlight.set(client, own + 1)
    this.#total++
    return true
  }

  #leave(client: string): void {
    const own = (this.#inFlight.get(client) ?? 1) - 1
    if (own === 0) this.#inFlight.delete(client)
    else this.#inFlight.set(client, own)
    this.#total--
  }
}

/** The `nameserver` lines of a resolv.conf; at most three, as the C library has it. */
export function machineResolvers(path = '/etc/resolv.conf'): DnsUpstream[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .map((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1])
    .filter((address) => address !== undefined)
    .slice(0, 3)
    .map((address) => ({ address, port: 53 }))
}

/** Says at once that there is no answer, instead of letting the guest wait: header and question of the query. */
function refusal(query: Buffer): Buffer {
  let end = headerBytes
  while ((query[end] ?? 0) !== 0) end += 1 + (query[end] ?? 0)
  end += 5
  const hasQuestion = query.readUInt16BE(4) === 1 && end <= query.length
  const answer = Buffer.alloc(hasQuestion ? end : headerBytes)
  query.copy(answer, 0, 0, answer.length)
  answer.writeUInt8((query[2] ?? 0) | responseFlag, 2)
  answer.writeUInt8(refusedCode, 3)
  answer.writeUInt16BE(hasQuestion ? 1 : 0, 4)
  answer.fill(0, 6, headerBytes)
  return answer
}

function closeQuietly(socket: UdpSocket): void {
  try {
    socket.close()
  } catch {
    // Closed by `stop` meanwhile.
  }
}
