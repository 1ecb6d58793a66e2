/**
 * The connecting side of the ZeroMQ wire protocol (ZMTP 3.0, mechanism NULL) over a Unix or TCP socket. Written here
 * because the native library reads ahead by count of messages, whatever their size: here a paused connection
 * holds no more than the piece that was read last.
 */
import { createConnection, type Socket } from 'node:net'

/** A path of a Unix socket, or a host and port. */
export type Endpoint = { path: string } | { host: string; port: number }

export interface ZmtpListener {
  onMessage(parts: Buffer[]): void
  /** Called once, after the last message, when an open connection has ended for whatever reason. */
  onClose(): void
}

const GREETING_BYTES = 64
const MECHANISM_OFFSET = 12
const MORE = 1
const LONG = 2
const COMMAND = 4
const LONG_FROM_BYTES = 256
const MAX_FRAME_BYTES = 2 ** 30
const HANDSHAKE_TIMEOUT_MS = 5000

const GREETING = Buffer.alloc(GREETING_BYTES)
GREETING[0] = 0xff
GREETING[9] = 0x7f
GREETING[10] = 3
GREETING.write('NULL', MECHANISM_OFFSET)

export class ZmtpConnection {
  readonly #socket: Socket
  readonly #listener: ZmtpListener
  #onReady: (() => void) | undefined
  #isGreeted = false
  #pending: Buffer[] = []
  #pendingBytes = 0
  #wantedBytes = GREETING_BYTES
  #parts: Buffer[] = []

  private constructor(socket: Socket, listener: ZmtpListener) {
    this.#socket = socket
    this.#listener = listener
  }

  /** Resolves after the handshake. Rejects when nobody listens there. */
  static connect(
    endpoint: Endpoint,
    type: 'DEALER' | 'SUB',
    listener: ZmtpListener,
  ): Promise<ZmtpConnection> {
    const socket = createConnection({ ...endpoint, noDelay: true })
    const connection = new ZmtpConnection(socket, listener)
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => socket.destroy(new Error('no handshake in time')), HANDSHAKE_TIMEOUT_MS)
      connection.#onReady = () => {
        clearTimeout(timer)
        socket.once('close', () => listener.onClose())
        resolve(connection)
      }
      // After the handshake an error is followed by a close, which the listener hears of.
      socket.on('error', reject)
      socket.once('close', () => {
        clearTimeout(timer)
        reject(new Error('the connection was closed'))
      })
      socket.on('data', (chunk: Buffer) => connection.#read(chunk))
      socket.write(Buffer.concat([GREETING, readyCommand(type)]))
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
    this.#socket.write(
      Buffer.concat(
        parts.flatMap((part, index) => [frameHead(part.length, index < parts.length - 1 ? MORE : 0), part]),
      ),
    )
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

  #read(chunk: Buffer): void {
    this.#pending.push(chunk)
    this.#pendingBytes += chunk.length
    // Joined only when what is waited for has come: a large frame is not copied with each of its pieces.
    if (this.#pendingBytes < this.#wantedBytes) return
    let bytes = this.#pending.length === 1 ? chunk : Buffer.concat(this.#pending)
    try {
      if (!this.#isGreeted) bytes = this.#takeGreeting(bytes)
      bytes = this.#takeFrames(bytes)
    } catch (error) {
      this.#socket.destroy(error instanceof Error ? error : new Error(String(error)))
      return
    }
    this.#pending = bytes.length === 0 ? [] : [bytes]
    this.#pendingBytes = bytes.length
  }

  #takeGreeting(bytes: Buffer): Buffer {
    if (bytes[0] !== 0xff || (bytes[10] ?? 0) < 3) throw new RangeError('not a ZMTP 3 peer')
    this.#isGreeted = true
    return bytes.subarray(GREETING_BYTES)
  }

  /** Returns what is left: the start of a frame whose end has not come. */
  #takeFrames(bytes: Buffer): Buffer {
    let rest = bytes
    for (;;) {
      const { head, total } = frameLength(rest)
      this.#wantedBytes = total
      if (rest.length < total) return rest
      this.#takeFrame(rest[0] ?? 0, rest.subarray(head, total))
      rest = rest.subarray(total)
    }
  }

  #takeFrame(flags: number, body: Buffer): void {
    if (flags & COMMAND) {
      if (body.toString('latin1', 1, 6) === 'READY') this.#onReady?.()
      this.#onReady = undefined
      return
    }
    this.#parts.push(body)
    if (flags & MORE) return
    const parts = this.#parts
    this.#parts = []
    this.#listener.onMessage(parts)
  }
}

function readyCommand(type: string): Buffer {
  const property = (name: string, value: string): Buffer => {
    const size = Buffer.alloc(4)
    size.writeUInt32BE(value.length)
    return Buffer.concat([Buffer.from([name.length]), Buffer.from(name), size, Buffer.from(value)])
  }
  const body = Buffer.concat([
    Buffer.from([5]),
    Buffer.from('READY'),
    property('Socket-Type', type),
    property('Identity', ''),
  ])
  return Buffer.concat([frameHead(body.length, COMMAND), body])
}

function frameHead(length: number, flags: number): Buffer {
  if (length < LONG_FROM_BYTES) return Buffer.from([flags, length])
  const long = Buffer.alloc(9)
  long[0] = flags | LONG
  long.writeBigUInt64BE(BigInt(length), 1)
  return long
}

/** How long the frame at the start is, or how many bytes tell it. */
function frameLength(bytes: Buffer): { head: number; total: number } {
  const isLong = ((bytes[0] ?? 0) & LONG) !== 0
  const head = isLong ? 9 : 2
  if (bytes.length < head) return { head, total: head }
  const size = isLong ? Number(bytes.readBigUInt64BE(1)) : (bytes[1] ?? 0)
  if (size > MAX_FRAME_BYTES) throw new RangeError(`a frame of ${size} bytes`)
  return { head, total: head + size }
}
