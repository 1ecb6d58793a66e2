import { Agent, type ClientRequest, type ClientRequestArgs } from 'node:http'
import { connect, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { connect as connectTls } from 'node:tls'
import { GUEST_PROBED_AFTER_MS } from '@sandbox/contract/guest-connections'
import { ENVD_PORT } from '@sandbox/contract/ports'

/** Waits between dials that are refused: a service behind the agent's port forwarding may take a second. */
const SANDBOX_RETRY_DELAYS_MS = [100, 200, 300, 400]
const DIAL_TIMEOUT_MS = 30_000
/** Longer than the idle time-out of load balancers in front (600 s), so that the edge never closes first. */
const IDLE_TIMEOUT_MS = 615_000
/**
 * Services of users close idle connections when they like, often after two to five seconds and without announcing it; a
 * request that meets such an end gets no answer, and not every one may be sent again.
 */
const SERVICE_IDLE_TIMEOUT_MS = 1000
const MAX_IDLE_CONNECTIONS = 256

type Dialled = (error: Error | null, socket: Duplex) => void

/** Keep-alive connections to one address. A connection is handed out only when it is established. */
class DialAgent extends Agent {
  readonly #retryDelaysMs: readonly number[]
  readonly #tls: boolean
  readonly #ownPort: number | undefined
  /** Connections whose handshake is under way: nobody else knows them yet. */
  readonly #handshakes = new Set<Duplex>()
  #closed = false

  /** @param ownPort the port whose server keeps idle connections longer than the edge; undefined = all */
  constructor(retryDelaysMs: readonly number[], tls: boolean, ownPort: number | undefined) {
    super({
      keepAlive: true,
      keepAliveMsecs: GUEST_PROBED_AFTER_MS,
      timeout: IDLE_TIMEOUT_MS,
      maxFreeSockets: MAX_IDLE_CONNECTIONS,
      scheduling: 'lifo',
    })
    this.#retryDelaysMs = retryDelaysMs
    this.#tls = tls
    this.#ownPort = ownPort
  }

  override keepSocketAlive(socket: Duplex): unknown {
    const isKept: unknown = super.keepSocketAlive(socket)
    const isOwn = this.#ownPort === undefined || (socket as Socket).remotePort === this.#ownPort
    if (!isOwn) (socket as Socket).setTimeout(SERVICE_IDLE_TIMEOUT_MS)
    return isKept
  }

  override reuseSocket(socket: Duplex, request: ClientRequest): void {
    super.reuseSocket(socket, request)
    ;(socket as Socket).setTimeout(IDLE_TIMEOUT_MS)
  }

  override createConnection(args: ClientRequestArgs, dialled: Dialled): undefined {
    this.#dial(args.host ?? '', Number(args.port), 0, dialled as Dialled & ((error: Error) => void))
  }

  #dial(host: string, port: number, round: number, dialled: Dialled & ((error: Error) => void)): void {
    const socket = connect({ host, port, noDelay: true })
    const timer = setTimeout(() => socket.destroy(new Error('dial timed out')), DIAL_TIMEOUT_MS)
    const onError = (error: NodeJS.ErrnoException): void => {
      clearTimeout(timer)
      const delayMs = this.#retryDelaysMs[round]
      const again = error.code === 'ECONNREFUSED' && delayMs !== undefined && !this.#closed
      if (again) setTimeout(() => this.#dial(host, port, round + 1, dialled), delayMs)
      else dialled(error)
    }
    socket.once('error', onError)
    socket.once('connect', () => {
      clearTimeout(timer)
      if (this.#closed) {
        socket.destroy(new Error('the sandbox is gone'))
        return
      }
      socket.off('error', onError)
      if (this.#tls) this.#secure(socket, dialled)
      else dialled(null, socket)
    })
  }

  /** The service's certificate is its own affair: the path to it never leaves the host. */
  #secure(socket: Socket, dialled: Dialled & ((error: Error) => void)): void {
    const secured = connectTls({ socket, rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] })
    const timer = setTimeout(() => secured.destroy(new Error('the handshake timed out')), DIAL_TIMEOUT_MS)
    const settled = (): void => {
      clearTimeout(timer)
      this.#handshakes.delete(secured)
    }
    this.#handshakes.add(secured)
    const onError = (error: Error): void => {
      settled()
      dialled(error)
    }
    secured.once('error', onError)
    secured.once('secureConnect', () => {
      settled()
      secured.off('error', onError)
      dialled(null, secured)
    })
  }

  close(): void {
    this.#closed = true
    for (const secured of this.#handshakes) secured.destroy(new Error('the sandbox is gone'))
    this.destroy()
  }
}

/** One place that requests go to (a sandbox, or the API): its connections and what runs over them. */
export class Upstream {
  readonly address: string
  readonly #retryDelaysMs: readonly number[]
  readonly #ownPort: number | undefined
  #plain: DialAgent | undefined
  #tls: DialAgent | undefined
  readonly #live = new Set<() => void>()
  #gone = false

  constructor(address: string, retryDelaysMs: readonly number[] = [], ownPort?: number) {
    this.address = address
    this.#retryDelaysMs = retryDelaysMs
    this.#ownPort = ownPort
  }

  /** An address of a sandbox: refused dials are repeated, and only its agent's idle connections are kept for long. */
  static sandbox(address: string): Upstream {
    return new Upstream(address, SANDBOX_RETRY_DELAYS_MS, ENVD_PORT)
  }

  /** True once `reset` was called: nothing may be dialled any more. */
  get gone(): boolean {
    return this.#gone
  }

  /** Number of exchanges and tunnels under way. */
  get liveCount(): number {
    return this.#live.size
  }

  agent(tls: boolean): Agent {
    if (tls) {
      this.#tls ??= new DialAgent(this.#retryDelaysMs, true, this.#ownPort)
      return this.#tls
    }
    this.#plain ??= new DialAgent(this.#retryDelaysMs, false, this.#ownPort)
    return this.#plain
  }

  /** Remembers how to break off something that runs; call the returned function when it is over. */
  track(breakOff: () => void): () => void {
    this.#live.add(breakOff)
    return () => this.#live.delete(breakOff)
  }

  /** Breaks off everything at once and closes all connections. Idempotent. */
  reset(): void {
    this.#gone = true
    for (const breakOff of [...this.#live]) breakOff()
    this.#live.clear()
    this.#plain?.close()
    this.#tls?.close()
  }
}
