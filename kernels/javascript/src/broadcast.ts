/**
 * Kernel messages to every subscriber, written at once and not when the event loop next turns: output of code that
 * never yields is seen while it runs. A slow subscriber makes the code wait, so output never piles up here.
 */
import { writeSync } from 'node:fs'
import type { Socket } from 'node:net'
import type { MessageCodec, WireMessage } from './wire-message.ts'
import { encodeMessage, type Peer, type ZmtpListener } from './zmtp.ts'

/** A subscriber that takes nothing for so long is dropped. */
const STALLED_MS = 60_000
const PAUSE_MS = 1

const pause = new Int32Array(new SharedArrayBuffer(4))

interface Handle {
  _handle?: { fd?: number } | null
}

export class Broadcast {
  readonly #listener: ZmtpListener
  readonly #codec: MessageCodec

  constructor(listener: ZmtpListener, codec: MessageCodec) {
    this.#listener = listener
    this.#codec = codec
  }

  send(type: string, content: unknown, parent: WireMessage | undefined): void {
    const bytes = encodeMessage([Buffer.from(type), ...this.#codec.encode(type, content, parent)])
    for (const peer of this.#listener.peers) {
      if (peer.isReady && peer.isSubscribed) write(peer, bytes)
    }
  }
}

function write(peer: Peer, bytes: Buffer): void {
  const fd = descriptorOf(peer.socket)
  // What the handshake left queued goes first.
  if (fd === undefined || peer.socket.writableLength > 0) {
    peer.socket.write(bytes)
    return
  }
  // Code may be ended from outside in the middle of this loop: the rest of the message is not forgotten.
  peer.unsent = peer.unsent.length === 0 ? bytes : Buffer.concat([peer.unsent, bytes])
  let stalledSince = 0
  while (peer.unsent.length > 0) {
    try {
      peer.unsent = peer.unsent.subarray(writeSync(fd, peer.unsent))
      stalledSince = 0
    } catch (error) {
      const now = Date.now()
      if (stalledSince === 0) stalledSince = now
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN' || now - stalledSince > STALLED_MS) {
        peer.socket.destroy()
        return
      }
      Atomics.wait(pause, 0, 0, PAUSE_MS)
    }
  }
}

/** Node offers no synchronous write to a socket; its descriptor does. */
function descriptorOf(socket: Socket): number | undefined {
  const fd = (socket as Handle)._handle?.fd
  return fd !== undefined && fd >= 0 ? fd : undefined
}
