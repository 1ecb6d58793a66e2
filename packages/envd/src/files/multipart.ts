const HEADER_LIMIT_BYTES = 16 * 1024
const CRLF = Buffer.from('\r\n')
const HEADER_END = Buffer.from('\r\n\r\n')

/** One part of a form. `body` must be read before the next part is asked for; what is left is skipped. */
export interface Part {
  readonly name: string | undefined
  /** As sent, with its directories. */
  readonly filename: string | undefined
  readonly body: AsyncIterable<Buffer>
}

/** The boundary in a multipart Content-Type, or undefined. */
export function boundaryOf(contentType: string): string | undefined {
  return parameters(contentType).get('boundary') || undefined
}

/**
 * Reads multipart/form-data piece by piece, holding no more than one chunk and one header block.
 *
 * @throws Error when the body ends early or a header block is too long
 */
export async function* readParts(chunks: AsyncIterable<Buffer>, boundary: string): AsyncGenerator<Part> {
  const reader = new Reader(chunks, Buffer.from(`\r\n--${boundary}`))
  for await (const _ of reader.untilDelimiter()) {
    // The preamble before the first boundary means nothing.
  }
  while (!(await reader.isLast())) {
    const disposition = dispositionOf(await reader.headers())
    const body = reader.untilDelimiter()
    yield { name: disposition.get('name'), filename: disposition.get('filename'), body }
    for await (const _ of body) {
      // A part that nobody wants is skipped.
    }
  }
}

class Reader {
  readonly #source: AsyncIterator<Buffer>
  readonly #delimiter: Buffer
  /** Starts with a line end, so that a body that begins with the boundary is no special case. */
  #buffer: Buffer = CRLF

  constructor(chunks: AsyncIterable<Buffer>, delimiter: Buffer) {
    this.#source = chunks[Symbol.asyncIterator]()
    this.#delimiter = delimiter
  }

  /** Everything up to the next delimiter, which is consumed. Once it was reached, later loops see nothing. */
  async *untilDelimiter(): AsyncGenerator<Buffer> {
    for (;;) {
      const at = this.#buffer.indexOf(this.#delimiter)
      if (at >= 0) {
        const data = this.#buffer.subarray(0, at)
        this.#buffer = this.#buffer.subarray(at + this.#delimiter.length)
        if (data.length > 0) yield data
        return
      }
      const safe = this.#buffer.length - this.#delimiter.length + 1
      if (safe > 0) {
        const data = this.#buffer.subarray(0, safe)
        this.#buffer = this.#buffer.subarray(safe)
        yield data
      }
      await this.#fill()
    }
  }

  async isLast(): Promise<boolean> {
    while (this.#buffer.length < 2) await this.#fill()
    return this.#buffer.toString('latin1', 0, 2) === '--'
  }

  /** The header block after a delimiter. */
  async headers(): Promise<string> {
    for (;;) {
      const end = this.#buffer.indexOf(HEADER_END)
      if (end >= 0) {
        const text = this.#buffer.toString('utf8', 0, end)
        this.#buffer = this.#buffer.subarray(end + HEADER_END.length)
        return text
      }
      if (this.#buffer.length > HEADER_LIMIT_BYTES) throw new Error('multipart: part header is too long')
      await this.#fill()
    }
  }

  async #fill(): Promise<void> {
    const { done, value } = await this.#source.next()
    if (done) throw new Error('multipart: NextPart: unexpected EOF')
    this.#buffer = this.#buffer.length === 0 ? value : Buffer.concat([this.#buffer, value])
  }
}

function dispositionOf(headers: string): Map<string, string> {
  const line = headers.split('\r\n').find((text) => /^content-disposition\s*:/i.test(text))
  return parameters(line?.slice(line.indexOf(':') + 1) ?? '')
}

/** Parameters of a header value, names in lower case; `name*=utf-8''…` wins over `name=`. */
function parameters(value: string): Map<string, string> {
  const found = new Map<string, string>()
  const pattern = /;\s*([^\s=;]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))/g
  for (const [, rawName = '', quoted, plain = ''] of value.matchAll(pattern)) {
    const name = rawName.toLowerCase()
    const text = quoted === undefined ? plain.trim() : quoted.replace(/\\(["\\])/g, '$1')
    const extended = /^utf-8'[^']*'(.*)$/i.exec(text)
    if (name.endsWith('*') && extended?.[1] !== undefined) {
      found.set(name.slice(0, -1), decodeURIComponent(extended[1]))
    } else if (!found.has(name)) {
      found.set(name, text)
    }
  }
  return found
}
