/** Jupyter's messages on the wire: signed parts behind a delimiter. */
import { createHmac, timingSafeEqual } from 'node:crypto'

export interface Header {
  msg_id: string
  msg_type: string
  session: string
  [field: string]: unknown
}

export interface WireMessage {
  header: Header
  /** As it came, to be sent back as the parent of every answer. */
  headerBytes: Buffer
  content: Record<string, unknown>
}

const DELIMITER = Buffer.from('<IDS|MSG>')
const NO_METADATA = Buffer.from('{}')
const PROTOCOL_VERSION = '5.3'

export class MessageCodec {
  readonly #key: string
  readonly #session: string
  #sent = 0

  /** @param key of the connection file; empty means unsigned */
  constructor(key: string, session: string) {
    this.#key = key
    this.#session = session
  }

  /** Throws a RangeError when the message is malformed or its signature is wrong. */
  decode(parts: readonly Buffer[]): WireMessage {
    const start = parts.findIndex((part) => part.equals(DELIMITER))
    const [signature, header, parent, metadata, content] = parts.slice(start + 1)
    if (start < 0 || !signature || !header || !parent || !metadata || !content) {
      throw new RangeError('not a message of Jupyter')
    }
    const expected = Buffer.from(this.#sign([header, parent, metadata, content]))
    if (this.#key !== '' && (expected.length !== signature.length || !timingSafeEqual(expected, signature))) {
      throw new RangeError('wrong signature')
    }
    return {
      header: JSON.parse(header.toString()),
      headerBytes: header,
      content: JSON.parse(content.toString()),
    }
  }

  encode(type: string, content: unknown, parent: Pick<WireMessage, 'headerBytes'> | undefined): Buffer[] {
    this.#sent += 1
    const header = {
      msg_id: `${this.#session}_${this.#sent}`,
      msg_type: type,
      username: 'kernel',
      session: this.#session,
      date: new Date().toISOString(),
      version: PROTOCOL_VERSION,
    }
    const signed = [
      Buffer.from(JSON.stringify(header)),
      parent?.headerBytes ?? NO_METADATA,
      NO_METADATA,
      Buffer.from(JSON.stringify(content)),
    ]
    return [DELIMITER, Buffer.from(this.#sign(signed)), ...signed]
  }

  #sign(parts: readonly Buffer[]): string {
    if (this.#key === '') return ''
    const hmac = createHmac('sha256', this.#key)
    for (const part of parts) hmac.update(part)
    return hmac.digest('hex')
  }
}
