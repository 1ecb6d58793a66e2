/** The listening side of the ZeroMQ wire protocol over Unix or TCP sockets. */
import { createServer, type Server, type Socket } from 'node:net'
import {
  ZMTP_GREETING,
  type ZmtpEndpoint,
  ZmtpReader,
  type ZmtpSocketType,
  zmtpMessage,
  zmtpReady,
} from '@sandbox/contract/zmtp'

type ListenerType = Extract<ZmtpSocketType, 'ROUTER' | 'PUB' | 'REP'>

const SUBSCRIBE = 1

/** One connected client. */
export class Peer {
  readonly socket: Socket
  isReady = false
  isSubscribed = false

  constructor(socket: Socket) {
    this.socket = socket
  }

  send(parts: readonly Buffer[]): void {
    if (!this.socket.destroyed) this.socket.write(zmtpMessage(parts))
  }
}

export class ZmtpListener {
  readonly peers = new Set<Peer>()
  readonly #type: ListenerType
  readonly #server: Server
  readonly #onMessage: (parts: Buffer[], peer: Peer) => void

  constructor(type: ListenerType, onMessage: (parts: Buffer[], peer: Peer) => void = () => undefined) {
    this.#type = type
    this.#onMessage = onMessage
    this.#server = createServer({ noDelay: true }, (socket) => this.#accept(socket))
  }

  listen(endpoint: ZmtpEndpoint): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(endpoint, () => resolve())
    })
  }

  close(): void {
    this.#server.close()
    for (const peer of this.peers) peer.socket.destroy()
  }

  #accept(socket: Socket): void {
    const peer = new Peer(socket)
    const reader = new ZmtpReader({
      onGreeting: () => socket.write(zmtpReady(this.#type)),
      onReady: () => {
        peer.isReady = true
      },
      onMessage: (parts) => this.#take(peer, parts),
    })
    this.peers.add(peer)
    socket.on('error', () => socket.destroy())
    socket.on('close', () => this.peers.delete(peer))
    socket.on('data', (chunk: Buffer) => {
      try {
        reader.read(chunk)
      } catch {
        socket.destroy()
      }
    })
    socket.write(ZMTP_GREETING)
  }

  #take(peer: Peer, parts: Buffer[]): void {
    if (this.#type === 'PUB') {
      // Kernels' clients subscribe to everything; the prefix is not looked at.
      peer.isSubscribed = parts[0]?.[0] === SUBSCRIBE
    } else if (this.#type === 'REP') {
      peer.send(parts)
    } else {
      this.#onMessage(parts, peer)
    }
  }
}
