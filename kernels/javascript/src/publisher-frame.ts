/** What the thread that runs code tells the one that publishes: one byte of kind, four of length, the body. */

/** The body is a message as it travels to subscribers. */
export const MESSAGE = 0
/** The body is the header of the request whose code runs now. */
export const PARENT = 1

const HEAD_BYTES = 5

export interface Frame {
  kind: number
  body: Buffer
}

export function encodeFrame(kind: number, body: Buffer): Buffer {
  const frame = Buffer.allocUnsafe(HEAD_BYTES + body.length)
  frame[0] = kind
  frame.writeUInt32LE(body.length, 1)
  body.copy(frame, HEAD_BYTES)
  return frame
}

/** Puts frames together again from the pieces in which they arrive. */
export class FrameReader {
  #pieces: Buffer[] = []
  #bytes = 0
  #wanted = HEAD_BYTES

  /** The frames that are complete with this piece. */
  take(piece: Buffer): Frame[] {
    this.#pieces.push(piece)
    this.#bytes += piece.length
    // Joined only when what is waited for has come: a large frame is not copied with each of its pieces.
    if (this.#bytes < this.#wanted) return []
    let bytes = this.#pieces.length === 1 ? piece : Buffer.concat(this.#pieces)
    const frames: Frame[] = []
    for (;;) {
      this.#wanted = bytes.length < HEAD_BYTES ? HEAD_BYTES : HEAD_BYTES + bytes.readUInt32LE(1)
      if (bytes.length < this.#wanted) break
      frames.push({ kind: bytes[0] ?? 0, body: bytes.subarray(HEAD_BYTES, this.#wanted) })
      bytes = bytes.subarray(this.#wanted)
    }
    this.#pieces = bytes.length === 0 ? [] : [bytes]
    this.#bytes = bytes.length
    return frames
  }
}
