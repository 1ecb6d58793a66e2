/**
 * The transparent end of connections whose fate hangs on a name, or which a user's proxy is to carry. The firewall
 * redirects them here; the policy of their slot decides; what is let through is dialled from this machine. Names are
 * resolved here again, so a guest gains nothing by claiming a name for an address of its own choice.
 */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import type { Logger } from 'pino'
import { originalDestination } from '../linux/original-destination.ts'
import { type DnsUpstream, machineResolvers } from './dns.ts'
import { EgressDialer } from './egress-dial.ts'
import type { HeaderTransforms } from './header-transforms.ts'
import { maxPeekBytes, type Peeked, peekHttpHost, peekServerName } from './peeked-name.ts'
import { decideEgress, type Egress, headersFor, httpPort, tlsPort } from './policy.ts'
import { reset, splice } from './splice.ts'

export interface EgressProxyOptions {
  /** Where to listen: `NetworkSlots.egressEndpoint`. The firewall admits redirected connections of slots only. */
  address: string
  port: number
  /** What is decided for the slot of an address; undefined when it is open. */
  egressOf: (address: string) => Egress | undefined
  /** CIDR blocks to which nothing is ever connected. */
  forbiddenRanges: readonly string[]
  /** Resolvers for names; default: those of /etc/resolv.conf, read at start. */
  upstreams?: readonly DnsUpstream[]
  /** Connections of one sandbox. Default 1,024; more are reset. */
  maxConnectionsPerClient?: number
  /** Connections of all sandboxes. Default 16,384. */
  maxConnections?: number
  /** How long a client may take to say a name. Default 10,000. */
  nameTimeoutMs?: number
  /** How long an address may take to accept. Default 15,000. */
  connectTimeoutMs?: number
  /** What ends the TLS of connections to which a rule applies; without it they are refused. */
  transforms?: HeaderTransforms
  log?: Logger
}

/** Whoever sends a name in more pieces than this does not mean to be understood. */
const maxPeekChunks = 512
/** A client that lets the server speak first says no name: where the address alone suffices, it is not kept long. */
const silentTimeoutMs = 1_000
const openEgress: Egress = {
  allowed: [],
  denied: [],
  domains: [],
  resolvers: undefined,
  proxy: undefined,
  rules: {},
}

export class EgressProxyServer {
  readonly #options: Required<Omit<EgressProxyOptions, 'log' | 'upstreams' | 'transforms'>>
  readonly #log: Logger | undefined
  readonly #transforms: HeaderTransforms | undefined
  readonly #dialer: EgressDialer
  readonly #clients = new Map<string, Set<Socket>>()
  #server: Server | undefined
  #total = 0

  constructor({ log, upstreams, transforms, ...options }: EgressProxyOptions) {
    this.#options = {
      maxConnectionsPerClient: 1_024,
      maxConnections: 16_384,
      nameTimeoutMs: 10_000,
      connectTimeoutMs: 15_000,
      ...options,
    }
    this.#log = log
    this.#transforms = transforms
    const { forbiddenRanges, connectTimeoutMs } = this.#options
    this.#dialer = new EgressDialer({
      forbiddenRanges,
      connectTimeoutMs,
      upstreams: upstreams ?? machineResolvers(),
    })
  }

  /** Throws EADDRNOTAVAIL before `NetworkSlots.start` made the address, EADDRINUSE when the port is taken. */
  async start(): Promise<void> {
    const { address, port } = this.#options
    const server = createServer({ allowHalfOpen: true }, (client) => this.#accept(client))
    this.#server = server
    server.listen({ host: address, port, backlog: 1_024 })
    await once(server, 'listening')
  }

  async stop(): Promise<void> {
    const server = this.#server
    this.#server = undefined
    if (!server) return
    const closed = once(server, 'close')
    server.close()
    for (const address of [...this.#clients.keys()]) this.drop(address)
    await closed
  }

  /** Connections under way. */
  get counts(): { total: number } {
    return { total: this.#total }
  }

  /** Resets every connection of the slot of an address: its occupant is gone. */
  drop(address: string): void {
    for (const client of this.#clients.get(address) ?? []) reset(client)
  }

  #accept(client: Socket): void {
    const from = client.remoteAddress
    client.on('error', () => {})
    if (from === undefined || !this.#enter(from, client)) {
      reset(client)
      return
    }
    client.on('close', () => this.#leave(from, client))
    this.#carry(client, from).catch((error: unknown) => {
      this.#log?.debug({ event: 'egress.failed', from, err: error })
      reset(client)
    })
  }

  async #carry(client: Socket, from: string): Promise<void> {
    const { address, port } = originalDestination(client)
    const before = this.#options.egressOf(from) ?? openEgress
    const said = await this.#nameOf(client, before, address, port)
    if (client.destroyed) return
    // Anew: it may have been replaced while the client took its time.
    const egress = this.#options.egressOf(from) ?? openEgress
    const decision = decideEgress(egress, said, address)
    if (decision === 'refused') {
      reset(client)
      return
    }
    const { proxy, resolvers } = egress
    const headers = said !== undefined && port === tlsPort ? headersFor(egress, said) : undefined
    if (said !== undefined && headers) {
      if (!this.#transforms) throw new Error('this proxy ends no TLS')
      // Always by name: headers may be secrets, and the address is of the guest's choice.
      const dial = (): Promise<Socket> => this.#dialer.dial({ name: said, address, port, proxy, resolvers })
      await this.#transforms.carry(client, { name: said, headers, dial })
      return
    }
    const name = decision === 'byName' ? said : undefined
    const upstream = await this.#dialer.dial({ name, address, port, proxy, resolvers })
    if (client.destroyed) upstream.destroy()
    else splice(client, upstream)
  }

  /** Only where domains could matter: a client that waits for the server must not be kept waiting for nothing. */
  async #nameOf(client: Socket, egress: Egress, address: string, port: number): Promise<string | undefined> {
    const peek = port === httpPort ? peekHttpHost : port === tlsPort ? peekServerName : undefined
    const namesMatter =
      egress.domains.length > 0 || (port === tlsPort && Object.keys(egress.rules).length > 0)
    if (!peek || !namesMatter) return undefined
    const isOpen = decideEgress(egress, undefined, address) === 'byAddress'
    const peeked = await peekWithin(client, peek, isOpen ? silentTimeoutMs : this.#options.nameTimeoutMs)
    return peeked.kind === 'name' ? peeked.name : undefined
  }

  #enter(from: string, client: Socket): boolean {
    const own = this.#clients.get(from) ?? new Set()
    if (own.size >= this.#options.maxConnectionsPerClient || this.#total >= this.#options.maxConnections)
      return false
    this.#clients.set(from, own.add(client))
    this.#total++
    return true
  }

  #leave(from: string, client: Socket): void {
    const own = this.#clients.get(from)
    if (!own?.delete(client)) return
    this.#total--
    if (own.size === 0) this.#clients.delete(from)
  }
}

/** Reads until `peek` is content; the bytes are put back for whoever reads next. Resolves also when time is up. */
function peekWithin(client: Socket, peek: (bytes: Buffer) => Peeked, timeoutMs: number): Promise<Peeked> {
  const { promise, resolve } = Promise.withResolvers<Peeked>()
  let bytes = Buffer.alloc(0)
  let chunks = 0
  const settle = (peeked: Peeked): void => {
    clearTimeout(timer)
    client.off('data', onData).off('end', onEnd).off('close', onEnd)
    client.pause()
    if (bytes.length > 0 && !client.destroyed) client.unshift(bytes)
    resolve(peeked)
  }
  const onData = (chunk: Buffer): void => {
    bytes = Buffer.concat([bytes, chunk])
    chunks++
    const peeked = peek(bytes)
    if (peeked.kind !== 'more') settle(peeked)
    else if (bytes.length >= maxPeekBytes || chunks >= maxPeekChunks) settle({ kind: 'none' })
  }
  const onEnd = (): void => settle({ kind: 'none' })
  const timer = setTimeout(onEnd, timeoutMs)
  client.on('data', onData).on('end', onEnd).on('close', onEnd)
  return promise
}
