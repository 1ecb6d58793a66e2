/** The connecting side of the ZeroMQ wire protocol over a Unix or TCP socket. */
import { createConnection, type Socket } from 'node:net'
import {
  ZMTP_GREETING,
  type ZmtpEndpoint,
  ZmtpReader,
  type ZmtpSocketType,
  zmtpMessage,
  zmtpReady,
} from '@sandbox/contract/zmtp'

export interface ZmtpListener {
  onMessage(parts: Buffer[]): void
  /** Called once, after the last message, when an open connection has ended for whatever reason. */
  onClose(): void
}

const HANDSHAKE_TIMEOUT_MS = 5000

export class ZmtpConnection {
  readonly #socket: Socket

  private constructor(socket: Socket) {
    this.#socket = socket
  }

  /** Resolves after the handshake. Rejects when nobody listens there. */
  static connect(
    endpoint: ZmtpEndpoint,
    type: Extract<ZmtpSocketType, 'DEALER' | 'SUB'>,
    listener: ZmtpListener,
  ): Promise<ZmtpConnection> {
    const socket = createConnection({ ...endpoint, noDelay: true })
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => socket.destroy(new Error('no handshake in time')), HANDSHAKE_TIMEOUT_MS)
      let isReady = false
      const reader = new ZmtpReader({
        onReady: () => {
          if (isReady) return
          isReady = true
          clearTimeout(timer)
          socket.once('close', () => listener.onClose())
          resolve(new ZmtpConnection(socket))
        },
        onMessage: (parts) => listener.onMessage(parts),
      })
      // After the handshake an error is followed by a close, which the listener hears of.
      socket.on('error', reject)
      socket.once('close', () => {
        clearTimeout(timer)
        reject(new Error('the connection was closed'))
      })
      socket.on('data', (chunk: Buffer) => {
        try {
          reader.read(chunk)
        } catch (error) {
          socket.destroy(error instanceof Error ? error : new Error(String(error)))
        }
      })
      socket.write(Buffer.concat([ZMTP_GREETING, zmtpReady(type)]))
    })
  }

  get isOpen(): boolean {
    return !this.#socket.destroyed && !this.#socket.readableEnded
  }

  /** Bytes that have come so far: while they grow, the other side is alive and sending. */
  get bytesRead(): number {
    return this.#socket.bytesRead
  }

  send(parts: readonly Buffer[]): void {
    this.#socket.write(zmtpMessage(parts))
  }

  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  close(): void {
    this.#socket.destroy()
  }
}
