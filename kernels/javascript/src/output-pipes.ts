/**
 * How output gets from what writes it to the thread that publishes it. Kernel messages and what programs write to
 * the standard streams, which children inherit, come by pipes, so that they are seen while code runs that never
 * yields, and a slow reader makes the writer wait.
 */
import {
  enlargePipe,
  moveDescriptor,
  openPipe,
  type Pipe,
  setNonBlocking,
  waitingBytes,
} from './descriptors.ts'
import { type OutputSources, STREAMS } from './output-sources.ts'

const FRAMES_BYTES = 1024 * 1024
/** What the publisher may have taken from a pipe before it publishes it: a full buffer of its reader, and a piece. */
const TAKEN_BYTES = 128 * 1024
/** A listener that takes nothing for so long gets the rest out of order. */
const STALLED_MS = 5000
const PAUSE_MS = 1

const pause = new Int32Array(new SharedArrayBuffer(4))

export class OutputPipes {
  readonly sources: OutputSources
  /** Where kernel messages are written. */
  readonly frames: number
  readonly #published: Int32Array

  /** From now on the standard streams of this process are pipes. */
  constructor() {
    const frames = openPipe()
    setNonBlocking(frames.writeEnd)
    enlargePipe(frames.writeEnd, FRAMES_BYTES)
    const published = new SharedArrayBuffer(STREAMS.length * Int32Array.BYTES_PER_ELEMENT)
    this.#published = new Int32Array(published)
    this.frames = frames.writeEnd
    this.sources = {
      frames: frames.readEnd,
      stdout: replaceStream(1),
      stderr: replaceStream(2),
      published,
    }
  }

  /** Returns when what programs have written until now is published: it comes before what is sent next. */
  drain(): void {
    for (const [index, name] of STREAMS.entries()) this.#drainStream(this.sources[name], index)
  }

  #drainStream(fd: number, index: number): void {
    const waiting = waitingBytes(fd)
    if (waiting === 0) return
    let published = Atomics.load(this.#published, index)
    const wanted = published + waiting + TAKEN_BYTES
    let endMs = Date.now() + STALLED_MS
    // Compared by the difference, because the counter wraps. A program that writes on is not waited for.
    while (((wanted - published) | 0) > 0) {
      // What is taken is published before what is sent next.
      if (waitingBytes(fd) === 0 || Date.now() > endMs) return
      Atomics.wait(pause, 0, 0, PAUSE_MS)
      const now = Atomics.load(this.#published, index)
      if (now !== published) endMs = Date.now() + STALLED_MS
      published = now
    }
  }
}

function replaceStream(fd: number): number {
  const pipe: Pipe = openPipe()
  moveDescriptor(pipe.writeEnd, fd)
  return pipe.readEnd
}
