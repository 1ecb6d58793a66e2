/** What the code writes to the standard streams, gathered into messages of a useful size. */
import { StringDecoder } from 'node:string_decoder'
import type { StreamName } from './output-sources.ts'

const MAX_CHARACTERS = 64 * 1024
/** Code that never yields shows its output after this time. */
const MAX_AGE_MS = 50

export class CapturedOutput {
  readonly #emit: (name: StreamName, text: string) => void
  #name: StreamName = 'stdout'
  #text = ''
  #sinceMs = 0

  /** Takes over `process.stdout` and `process.stderr`. */
  constructor(emit: (name: StreamName, text: string) => void) {
    this.#emit = emit
    this.#capture('stdout')
    this.#capture('stderr')
  }

  write(name: StreamName, text: string): void {
    if (text === '') return
    if (name !== this.#name) this.flush()
    this.#name = name
    if (this.#text === '') {
      this.#sinceMs = Date.now()
      setImmediate(() => this.flush())
    }
    this.#text += text
    if (this.#text.length >= MAX_CHARACTERS || Date.now() - this.#sinceMs >= MAX_AGE_MS) this.flush()
  }

  flush(): void {
    const text = this.#text
    this.#text = ''
    if (text !== '') this.#emit(this.#name, text)
  }

  #capture(name: StreamName): void {
    const decoder = new StringDecoder('utf8')
    const write = (chunk: unknown, encoding?: unknown, callback?: unknown): boolean => {
      const done = typeof encoding === 'function' ? encoding : callback
      if (typeof chunk === 'string') {
        const isText = typeof encoding !== 'string' || /^utf-?8$/i.test(encoding)
        this.write(name, isText ? chunk : decoder.write(Buffer.from(chunk, encoding as BufferEncoding)))
      } else if (chunk instanceof Uint8Array) {
        this.write(name, decoder.write(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)))
      } else {
        throw new TypeError('The "chunk" argument must be of type string or Uint8Array')
      }
      if (typeof done === 'function') process.nextTick(done)
      return true
    }
    Object.defineProperty(process[name], 'write', { value: write, writable: true, configurable: true })
  }
}
