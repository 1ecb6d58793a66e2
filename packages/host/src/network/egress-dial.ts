import { Resolver } from 'node:dns/promises'
import { once } from 'node:events'
import { connect as connectTcp, isIPv4, type Socket } from 'node:net'
import { networkInterfaces } from 'node:os'
import { connect as connectTls } from 'node:tls'
import type { EgressProxy } from '@sandbox/contract/rest/network'
import { splitHostPort } from '@sandbox/contract/rest/network-rules'
import { type AddressRange, addressNumber, inRanges, mergedRanges } from './address-ranges.ts'
import type { DnsUpstream } from './dns.ts'
import { socksConnect } from './socks5.ts'

const resolveTimeoutMs = 2_000
const resolveTries = 2
const maxAddresses = 4
const localAddressesKeptMs = 1_000

export interface DialerOptions {
  /** CIDR blocks to which nothing is ever connected. */
  forbiddenRanges: readonly string[]
  /** Resolvers for names. */
  upstreams: readonly DnsUpstream[]
  /** For each address tried, the answer of a proxy included. */
  connectTimeoutMs: number
}

/** Where a connection goes. */
export interface Target {
  /** Resolved here, or by the proxy; undefined dials the address. */
  name: string | undefined
  address: string
  port: number
  /** Addresses of resolvers to ask instead of the default ones. */
  resolvers: readonly string[] | undefined
  proxy: EgressProxy | undefined
}

/** A destination that a sandbox must not reach through this machine. */
export class ForbiddenDestinationError extends Error {
  constructor(destination: string) {
    super(`${destination} is, or resolves only to, an internal address`)
    this.name = 'ForbiddenDestinationError'
  }
}

/** Connects on behalf of sandboxes, from this machine: so it must refuse whatever only this machine may reach. */
export class EgressDialer {
  readonly #forbidden: readonly AddressRange[]
  readonly #connectTimeoutMs: number
  readonly #resolver: Resolver
  #local: { addresses: ReadonlySet<string>; atMs: number } | undefined

  constructor(options: DialerOptions) {
    this.#forbidden = mergedRanges(options.forbiddenRanges)
    this.#connectTimeoutMs = options.connectTimeoutMs
    this.#resolver = resolverOf(options.upstreams.map(({ address, port }) => serverText(address, port)))
  }

  /** A connected socket that allows half-open use. @throws ForbiddenDestinationError, or what the connection met */
  async dial(target: Target): Promise<Socket> {
    const { name, address, port, proxy } = target
    if (name === undefined && this.#isForbidden(address)) throw new ForbiddenDestinationError(address)
    if (proxy) return this.#throughProxy(proxy, name ?? address, port)
    if (name === undefined) return this.#connect(address, port)
    const addresses = await this.#publicAddresses(name, target.resolvers)
    // The guest's own choice first, if it is one of them: it may balance its load.
    const ordered = addresses.includes(address) ? [...new Set([address, ...addresses])] : addresses
    return this.#connectFirst(ordered.slice(0, maxAddresses), port)
  }

  async #throughProxy(proxy: EgressProxy, host: string, port: number): Promise<Socket> {
    const at = splitHostPort(proxy.address)
    if (!at) throw new Error('the address of the proxy is not host:port')
    const tcp = await this.#connectFirst(await this.#publicAddresses(at.host, undefined), at.port)
    const timer = setTimeout(
      () => tcp.destroy(new Error('the proxy does not answer')),
      this.#connectTimeoutMs,
    )
    try {
      const socket = proxy.tls?.enabled ? await secured(tcp, at.host, proxy.tls) : tcp
      await socksConnect(socket, host, port, proxy)
      return socket
    } catch (error) {
      tcp.destroy()
      throw error
    } finally {
      clearTimeout(timer)
    }
  }

  async #publicAddresses(name: string, resolvers: readonly string[] | undefined): Promise<string[]> {
    const addresses = isIPv4(name) ? [name] : await this.#resolverFor(resolvers).resolve4(name)
    const open = addresses.filter((address) => !this.#isForbidden(address))
    if (open.length === 0) throw new ForbiddenDestinationError(name)
    return open
  }

  #resolverFor(addresses: readonly string[] | undefined): Resolver {
    if (!addresses) return this.#resolver
    const open = addresses.filter((address) => !this.#isForbidden(address))
    if (open.length === 0) throw new Error('no resolver is left to ask')
    return resolverOf(open)
  }

  async #connectFirst(addresses: readonly string[], port: number): Promise<Socket> {
    let failure: unknown
    for (const address of addresses) {
      try {
        return await this.#connect(address, port)
      } catch (error) {
        failure = error
      }
    }
    throw failure
  }

  async #connect(address: string, port: number): Promise<Socket> {
    const socket = connectTcp({ host: address, port, allowHalfOpen: true })
    const timer = setTimeout(() => socket.destroy(new Error('no answer')), this.#connectTimeoutMs)
    // Between one user and the next nobody listens, and a failure then must not end the process.
    socket.on('error', () => {})
    try {
      await once(socket, 'connect')
    } finally {
      clearTimeout(timer)
    }
    // The kernel speaks to itself from the address it speaks to: whatever made that one local, it is this machine.
    if (socket.localAddress === socket.remoteAddress) {
      socket.destroy()
      throw new ForbiddenDestinationError(address)
    }
    return socket
  }

  #isForbidden(address: string): boolean {
    return inRanges(this.#forbidden, addressNumber(address)) || this.#localAddresses().has(address)
  }

  #localAddresses(): ReadonlySet<string> {
    const now = performance.now()
    if (!this.#local || now - this.#local.atMs > localAddressesKeptMs) {
      const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
      this.#local = { addresses: new Set(addresses.map(({ address }) => address)), atMs: now }
    }
    return this.#local.addresses
  }
}

/** Asks over the network only: names in this machine's own files are not for sandboxes. */
function resolverOf(servers: readonly string[]): Resolver {
  const resolver = new Resolver({ timeout: resolveTimeoutMs, tries: resolveTries })
  resolver.setServers(servers)
  return resolver
}

const serverText = (address: string, port: number): string =>
  isIPv4(address) ? `${address}:${port}` : `[${address}]:${port}`

/** Never falls back to plain: a failure of TLS ends the connection. */
async function secured(tcp: Socket, host: string, tls: NonNullable<EgressProxy['tls']>): Promise<Socket> {
  const name = tls.serverName ?? host
  const socket = connectTls({
    socket: tcp,
    host: name,
    ...(isIPv4(name) ? {} : { servername: name }),
    ...(tls.caCert === undefined ? {} : { ca: tls.caCert }),
    minVersion: 'TLSv1.2',
    rejectUnauthorized: true,
  })
  socket.on('error', () => {})
  // A connection that ends before it is secured says so by `close` alone.
  await Promise.race([once(socket, 'secureConnect'), once(tcp, 'close').then(hungUp)])
  socket.allowHalfOpen = true
  return socket
}

function hungUp(): never {
  throw new Error('the proxy hung up')
}
