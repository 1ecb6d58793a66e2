/**
 * Kernel messages to every subscriber, handed to the publishing thread at once and not when the event loop next
 * turns: output of code that never yields is seen while it runs.
 */
import { writeSync } from 'node:fs'
import { zmtpMessage } from '@sandbox/contract/zmtp'
import { waitWritable } from './descriptors.ts'
import type { OutputPipes } from './output-pipes.ts'
import { encodeFrame, MESSAGE, PARENT } from './publisher-frame.ts'
import type { MessageCodec, WireMessage } from './wire-message.ts'

/** Code that waits here can still be interrupted so often. */
const WAIT_MS = 20

export class Broadcast {
  readonly #pipes: OutputPipes
  readonly #codec: MessageCodec
  /** Code may be ended from outside while it writes: the rest of the message is not forgotten. */
  #unsent = Buffer.alloc(0) as Buffer

  constructor(pipes: OutputPipes, codec: MessageCodec) {
    this.#pipes = pipes
    this.#codec = codec
  }

  /** What programs write from now on belongs to this request. */
  follow(request: WireMessage): void {
    this.#write(encodeFrame(PARENT, request.headerBytes))
  }

  send(type: string, content: unknown, parent: WireMessage | undefined): void {
    const parts = [Buffer.from(type), ...this.#codec.encode(type, content, parent)]
    this.#write(encodeFrame(MESSAGE, zmtpMessage(parts)))
  }

  #write(frame: Buffer): void {
    this.#pipes.drain()
    this.#unsent = this.#unsent.length === 0 ? frame : Buffer.concat([this.#unsent, frame])
    while (this.#unsent.length > 0) {
      try {
        this.#unsent = this.#unsent.subarray(writeSync(this.#pipes.frames, this.#unsent))
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
        waitWritable(this.#pipes.frames, WAIT_MS)
      }
    }
  }
}
