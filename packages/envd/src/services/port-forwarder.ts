import { readFileSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { JUPYTER_PORT } from '@sandbox/contract/ports'

const SCAN_MS = 1000
const SLOW_SCAN_MS = 10_000
/** A new listener is expected for this long after something happened. */
const ATTENTION_MS = 60_000
const FORWARDERS_LIMIT = 256
const LISTEN = '0A'
const LOOPBACK = new Map([
  ['0100007F', '127.0.0.1'],
  // Java listens so on 127.0.0.1, with a socket of IPv6.
  ['0000000000000000FFFF00000100007F', '127.0.0.1'],
  ['00000000000000000000000001000000', '::1'],
])
const WILDCARD = new Set(['00000000', '00000000000000000000000000000000'])

/** Listeners of a `/proc/net/tcp` table: loopback ports with their address, and ports bound to every address. */
export function parseListeners(table: string): { loopback: Map<number, string>; wildcard: Set<number> } {
  const loopback = new Map<number, string>()
  const wildcard = new Set<number>()
  for (const line of table.split('\n')) {
    const [, local = '', , state] = line.trim().split(/\s+/)
    if (state !== LISTEN) continue
    const [address = '', portHex = ''] = local.split(':')
    const port = Number.parseInt(portHex, 16)
    const target = LOOPBACK.get(address)
    if (target && !loopback.has(port)) loopback.set(port, target)
    if (WILDCARD.has(address)) wildcard.add(port)
  }
  return { loopback, wildcard }
}

/**
 * Makes services that listen on loopback reachable at the sandbox's own address. It looks for them each second
 * while something happens, seldom while processes only run, and not at all when nothing does.
 */
export class PortForwarder {
  readonly #address: string
  readonly #isBusy: () => boolean
  readonly #servers = new Map<number, Server>()
  #timer: NodeJS.Timeout | undefined
  #attentionUntilMs = 0

  /**
   * @param address of the sandbox's interface
   * @param isBusy whether anything runs that could open a listener
   */
  constructor(address: string, isBusy: () => boolean) {
    this.#address = address
    this.#isBusy = isBusy
  }

  /** Something happened that may lead to a listener. */
  attend(): void {
    this.#attentionUntilMs = performance.now() + ATTENTION_MS
    this.#schedule(SCAN_MS)
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#attentionUntilMs = 0
    for (const port of [...this.#servers.keys()]) this.#stop(port)
  }

  /** Looks once and adjusts the forwarders. */
  scan(): void {
    const { loopback, wildcard } = parseListeners(`${read('/proc/net/tcp')}\n${read('/proc/net/tcp6')}`)
    for (const port of wildcard) loopback.delete(port)
    loopback.delete(JUPYTER_PORT)
    for (const port of [...this.#servers.keys()]) if (!loopback.has(port)) this.#stop(port)
    for (const [port, target] of loopback) if (!this.#servers.has(port)) this.#forward(port, target)
  }

  #schedule(delayMs: number): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.scan()
      if (performance.now() < this.#attentionUntilMs) this.#schedule(SCAN_MS)
      else if (this.#isBusy()) this.#schedule(SLOW_SCAN_MS)
    }, delayMs)
  }

  #forward(port: number, target: string): void {
    if (this.#servers.size >= FORWARDERS_LIMIT) return
    const server = createServer({ allowHalfOpen: true }, (client) => join(client, port, target))
    this.#servers.set(port, server)
    server.on('error', () => this.#stop(port))
    server.listen(port, this.#address)
  }

  #stop(port: number): void {
    this.#servers.get(port)?.close()
    this.#servers.delete(port)
  }
}

function join(client: Socket, port: number, host: string): void {
  const upstream = connect({ port, host, allowHalfOpen: true })
  for (const [one, other] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    one.on('error', () => other.destroy())
    one.on('close', () => other.destroy())
    one.pipe(other)
  }
}

function read(file: string): string {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return ''
  }
}
