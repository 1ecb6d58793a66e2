/**
 * The ZeroMQ wire protocol (ZMTP 3.0, mechanism NULL), as much of it as a kernel needs: the listening side over
 * Unix or TCP sockets. Written here because the native `zeromq` package would add a thread and megabytes of
 * memory to every sandbox for these two hundred lines.
 */
import { createServer, type Server, type Socket } from 'node:net'

export type SocketType = 'ROUTER' | 'PUB' | 'REP'

/** A path of a Unix socket, or a host and port. */
export type Endpoint = { path: string } | { host: string; port: number }

const GREETING_BYTES = 64
const MECHANISM_OFFSET = 12
const MORE = 1
const LONG = 2
const COMMAND = 4
const SUBSCRIBE = 1
const MAX_FRAME_BYTES = 2 ** 30

const GREETING = Buffer.alloc(GREETING_BYTES)
GREETING[0] = 0xff
GREETING[9] = 0x7f
GREETING[10] = 3
GREETING.write('NULL', MECHANISM_OFFSET)

/** One connected client. */
export class Peer {
  readonly socket: Socket
  isReady = false
  isSubscribed = false
  pending: Buffer[] = []
  pendingBytes = 0
  wantedBytes = GREETING_BYTES
  isGreeted = false
  parts: Buffer[] = []

  constructor(socket: Socket) {
    this.socket = socket
  }

  send(parts: readonly Buffer[]): void {
    if (!this.socket.destroyed) this.socket.write(encodeMessage(parts))
  }
}

/** Encodes a message of several parts as the frames that travel. */
export function encodeMessage(parts: readonly Buffer[]): Buffer {
  return Buffer.concat(
    parts.flatMap((part, index) => [head(part.length, index < parts.length - 1 ? MORE : 0), part]),
  )
}

function head(length: number, flags: number): Buffer {
  if (length < 256) return Buffer.from([flags, length])
  const long = Buffer.alloc(9)
  long[0] = flags | LONG
  long.writeBigUInt64BE(BigInt(length), 1)
  return long
}

function readyCommand(type: SocketType): Buffer {
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
  return Buffer.concat([Buffer.from([COMMAND, body.length]), body])
}

export class ZmtpListener {
  readonly peers = new Set<Peer>()
  readonly #type: SocketType
  readonly #server: Server
  readonly #onMessage: (parts: Buffer[], peer: Peer) => void

  constructor(type: SocketType, onMessage: (parts: Buffer[], peer: Peer) => void = () => undefined) {
    this.#type = type
    this.#onMessage = onMessage
    this.#server = createServer({ noDelay: true }, (socket) => this.#accept(socket))
  }

  listen(endpoint: Endpoint): Promise<void> {
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
    this.peers.add(peer)
    socket.on('error', () => socket.destroy())
    socket.on('close', () => this.peers.delete(peer))
    socket.on('data', (chunk: Buffer) => {
      try {
        this.#receive(peer, chunk)
      } catch {
        socket.destroy()
      }
    })
    socket.write(GREETING)
  }

  #receive(peer: Peer, chunk: Buffer): void {
    peer.pending.push(chunk)
    peer.pendingBytes += chunk.length
    // Joined only when what is waited for has come: a large frame is not copied with each of its pieces.
    if (peer.pendingBytes < peer.wantedBytes) return
    let bytes = peer.pending.length === 1 ? chunk : Buffer.concat(peer.pending)
    if (!peer.isGreeted) {
      if (bytes[0] !== 0xff || (bytes[10] ?? 0) < 3) throw new RangeError('not a ZMTP 3 peer')
      peer.isGreeted = true
      bytes = bytes.subarray(GREETING_BYTES)
      peer.socket.write(readyCommand(this.#type))
    }
    for (;;) {
      const wanted = frameLength(bytes)
      peer.wantedBytes = wanted.total
      if (bytes.length < wanted.total) break
      this.#takeFrame(peer, bytes[0] ?? 0, bytes.subarray(wanted.head, wanted.total))
      bytes = bytes.subarray(wanted.total)
    }
    peer.pending = bytes.length === 0 ? [] : [bytes]
    peer.pendingBytes = bytes.length
  }

  #takeFrame(peer: Peer, flags: number, body: Buffer): void {
    if (flags & COMMAND) {
      if (body.toString('latin1', 1, 6) === 'READY') peer.isReady = true
      return
    }
    peer.parts.push(body)
    if (flags & MORE) return
    const parts = peer.parts
    peer.parts = []
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

/** How long the frame at the start is, or how many bytes tell it. */
function frameLength(bytes: Buffer): { head: number; total: number } {
  const isLong = ((bytes[0] ?? 0) & LONG) !== 0
  const head = isLong ? 9 : 2
  if (bytes.length < head) return { head, total: head }
  const size = isLong ? Number(bytes.readBigUInt64BE(1)) : (bytes[1] ?? 0)
  if (size > MAX_FRAME_BYTES) throw new RangeError(`a frame of ${size} bytes`)
  return { head, total: head + size }
}
