/**
 * The socket that Jupyter Server listens to, in a thread of its own: what programs write to the standard streams is
 * published even while the kernel's code waits for them.
 */
import { Socket } from 'node:net'
import { StringDecoder } from 'node:string_decoder'
import { type ZmtpEndpoint, zmtpMessage } from '@sandbox/contract/zmtp'
import { type OutputSources, STREAMS, type StreamName } from './output-sources.ts'
import { FrameReader, MESSAGE } from './publisher-frame.ts'
import type { MessageCodec } from './wire-message.ts'
import { ZmtpListener } from './zmtp-listener.ts'

/** A subscriber that takes nothing for so long is dropped. */
const STALLED_MS = 60_000

export class Publisher {
  readonly #codec: MessageCodec
  readonly #listener = new ZmtpListener('PUB')
  readonly #readers: Socket[]
  readonly #published: Int32Array
  readonly #slow = new Set<Socket>()
  #parent: { headerBytes: Buffer } | undefined

  constructor(sources: OutputSources, codec: MessageCodec) {
    this.#codec = codec
    this.#published = new Int32Array(sources.published)
    const frames = openReader(sources.frames)
    const reader = new FrameReader()
    frames.on('data', (piece: Buffer) => {
      for (const { kind, body } of reader.take(piece)) {
        if (kind === MESSAGE) this.#send(body)
        else this.#parent = { headerBytes: body }
      }
    })
    const streams = STREAMS.map((name, index) => this.#follow(openReader(sources[name]), name, index))
    // In this order they go on after a pause: what was written to a stream comes before a message that was sent after it.
    this.#readers = [...streams, frames]
  }

  listen(endpoint: ZmtpEndpoint): Promise<void> {
    return this.#listener.listen(endpoint)
  }

  #follow(stream: Socket, name: StreamName, index: number): Socket {
    const decoder = new StringDecoder('utf8')
    return stream.on('data', (piece: Buffer) => {
      const text = decoder.write(piece)
      if (text !== '') {
        const parts = this.#codec.encode('stream', { name, text }, this.#parent)
        this.#send(zmtpMessage([Buffer.from('stream'), ...parts]))
      }
      Atomics.add(this.#published, index, piece.length)
    })
  }

  #send(message: Buffer): void {
    for (const { isReady, isSubscribed, socket } of this.#listener.peers) {
      if (isReady && isSubscribed && !socket.destroyed && !socket.write(message)) this.#waitFor(socket)
    }
  }

  /** Nothing more is read until every subscriber has taken what it was sent: output never piles up here. */
  #waitFor(socket: Socket): void {
    if (this.#slow.has(socket)) return
    this.#slow.add(socket)
    for (const reader of this.#readers) reader.pause()
    const timer = setTimeout(() => socket.destroy(), STALLED_MS)
    const goOn = (): void => {
      socket.off('drain', goOn)
      socket.off('close', goOn)
      clearTimeout(timer)
      this.#slow.delete(socket)
      if (this.#slow.size === 0) for (const reader of this.#readers) reader.resume()
    }
    socket.once('drain', goOn)
    socket.once('close', goOn)
  }
}

const openReader = (fd: number): Socket => new Socket({ fd, readable: true, writable: false })
