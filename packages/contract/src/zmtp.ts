/**
 * The ZeroMQ wire protocol (ZMTP 3.0, mechanism NULL), as much of it as kernels and those who talk to them need.
 * Written here because the native library adds a thread and megabytes of memory, and reads ahead by count of messages,
 * whatever their size: here a paused connection holds no more than the piece that was read last.
 */

/** A path of a Unix socket, or a host and port. */
export type ZmtpEndpoint = { path: string } | { host: string; port: number }

export type ZmtpSocketType = 'DEALER' | 'SUB' | 'ROUTER' | 'PUB' | 'REP'

const GREETING_BYTES = 64
const MECHANISM_OFFSET = 12
const MORE = 1
const LONG = 2
const COMMAND = 4
const LONG_FROM_BYTES = 256
const MAX_FRAME_BYTES = 2 ** 30

/** The first that each side sends. */
export const ZMTP_GREETING = Buffer.alloc(GREETING_BYTES)
ZMTP_GREETING[0] = 0xff
ZMTP_GREETING[9] = 0x7f
ZMTP_GREETING[10] = 3
ZMTP_GREETING.write('NULL', MECHANISM_OFFSET)

/** The second that each side sends; after it come messages. */
export function zmtpReady(type: ZmtpSocketType): Buffer {
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

/** A message of several parts as the frames that travel. */
export function zmtpMessage(parts: readonly Buffer[]): Buffer {
  return Buffer.concat(
    parts.flatMap((part, index) => [frameHead(part.length, index < parts.length - 1 ? MORE : 0), part]),
  )
}

export interface ZmtpEvents {
  onGreeting?: () => void
  onReady: () => void
  onMessage: (parts: Buffer[]) => void
}

/** Takes what one peer sends, in whatever pieces it comes. */
export class ZmtpReader {
  readonly #events: ZmtpEvents
  #isGreeted = false
  #pending: Buffer[] = []
  #pendingBytes = 0
  #wantedBytes = GREETING_BYTES
  #parts: Buffer[] = []

  constructor(events: ZmtpEvents) {
    this.#events = events
  }

  /** @throws RangeError when the peer speaks something else, or sends a frame of more than 1 GiB */
  read(chunk: Buffer): void {
    this.#pending.push(chunk)
    this.#pendingBytes += chunk.length
    // Joined only when what is waited for has come: a large frame is not copied with each of its pieces.
    if (this.#pendingBytes < this.#wantedBytes) return
    let bytes = this.#pending.length === 1 ? chunk : Buffer.concat(this.#pending)
    if (!this.#isGreeted) bytes = this.#takeGreeting(bytes)
    bytes = this.#takeFrames(bytes)
    this.#pending = bytes.length === 0 ? [] : [bytes]
    this.#pendingBytes = bytes.length
  }

  #takeGreeting(bytes: Buffer): Buffer {
    if (bytes[0] !== 0xff || (bytes[10] ?? 0) < 3) throw new RangeError('not a ZMTP 3 peer')
    this.#isGreeted = true
    this.#events.onGreeting?.()
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
      if (body.toString('latin1', 1, 6) === 'READY') this.#events.onReady()
      return
    }
    this.#parts.push(body)
    if (flags & MORE) return
    const parts = this.#parts
    this.#parts = []
    this.#events.onMessage(parts)
  }
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
