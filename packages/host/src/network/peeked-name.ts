/**
 * Reads the host name that a client says it wants from the first bytes of its connection: HTTP's Host header, or the
 * server name of a TLS ClientHello. The bytes are a guest's: every length is checked, and whatever two readers could
 * understand differently counts as no name.
 */

/** `more`: not enough bytes yet. `none`: it says no name, or nothing that is understood. */
export type Peeked = { kind: 'more' } | { kind: 'none' } | { kind: 'name'; name: string }

/** A request head or ClientHello that is longer says no name. */
export const maxPeekBytes = 32 * 1024

const more: Peeked = { kind: 'more' }
const none: Peeked = { kind: 'none' }

const requestLine = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} [\x21-\x7e]+ HTTP\/1\.[01]$/
const methodStart = /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}( |$)/
const headerLine = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\x80-\xff\t]*)$/
const hostName = /^[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*$/
const maxNameLength = 253

/** The Host header of an HTTP/1 request, without its port. */
export function peekHttpHost(bytes: Buffer): Peeked {
  const end = bytes.indexOf('\r\n\r\n')
  if (end < 0) {
    const begun = methodStart.test(bytes.toString('latin1', 0, 33))
    return begun && bytes.length < maxPeekBytes ? more : none
  }
  const lines = bytes.toString('latin1', 0, end).split('\r\n')
  if (!requestLine.test(lines[0] ?? '')) return none
  const hosts: string[] = []
  for (const line of lines.slice(1)) {
    const header = headerLine.exec(line)
    if (!header) return none
    if (header[1]?.toLowerCase() === 'host') hosts.push(header[2] ?? '')
  }
  const [host, ...others] = hosts
  if (host === undefined || others.length > 0) return none
  return named(host.trim().replace(/:\d{1,5}$/, ''))
}

const recordHeaderBytes = 5
const handshakeRecord = 22
const tlsMajorVersion = 3
const clientHello = 1
const serverNameExtension = 0
const hostNameType = 0

/** The server name of a TLS ClientHello, which may come in several records. */
export function peekServerName(bytes: Buffer): Peeked {
  const fragments: Buffer[] = []
  let at = 0
  while (bytes.length >= at + recordHeaderBytes && bytes[at] === handshakeRecord) {
    const size = bytes.readUInt16BE(at + 3)
    if (bytes[at + 1] !== tlsMajorVersion || size === 0) break
    at += recordHeaderBytes
    fragments.push(bytes.subarray(at, at + size))
    at += size
  }
  const result = helloName(Buffer.concat(fragments))
  if (result.kind !== 'more') return result
  // What has come goes on as handshake records do, and may still become a whole one.
  const begun = [handshakeRecord, tlsMajorVersion].every(
    (byte, i) => bytes.length <= at + i || bytes[at + i] === byte,
  )
  const mayContinue = begun && bytes.length < at + recordHeaderBytes && bytes.length < maxPeekBytes
  return mayContinue ? more : none
}

/** @param message handshake bytes as far as they have come */
function helloName(message: Buffer): Peeked {
  if (message.length > 0 && message[0] !== clientHello) return none
  if (message.length < 4) return more
  const length = message.readUIntBE(1, 3)
  if (length > maxPeekBytes) return none
  if (message.length < 4 + length) return more
  try {
    return serverName(new Fields(message.subarray(4, 4 + length)))
  } catch (error) {
    if (error instanceof RangeError) return none
    throw error
  }
}

function serverName(hello: Fields): Peeked {
  // Version and random, session id, cipher suites, compression methods.
  hello.take(34)
  hello.vector(1)
  hello.vector(2)
  hello.vector(1)
  if (hello.isEmpty) return none
  const extensions = new Fields(hello.vector(2))
  const names: Buffer[] = []
  while (!extensions.isEmpty) {
    const type = extensions.number(2)
    const body = extensions.vector(2)
    if (type === serverNameExtension) names.push(body)
  }
  const [body, ...others] = names
  if (!body || others.length > 0) return none
  const list = new Fields(new Fields(body).vector(2))
  if (list.number(1) !== hostNameType) return none
  const name = list.vector(2)
  return list.isEmpty ? named(name.toString('latin1')) : none
}

/** Reads in order; RangeError where the bytes end too early. */
class Fields {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get isEmpty(): boolean {
    return this.#at >= this.#bytes.length
  }

  take(length: number): Buffer {
    const end = this.#at + length
    if (end > this.#bytes.length) throw new RangeError('too short')
    const taken = this.#bytes.subarray(this.#at, end)
    this.#at = end
    return taken
  }

  number(width: number): number {
    return this.take(width).readUIntBE(0, width)
  }

  /** Bytes with their length before them. */
  vector(lengthWidth: number): Buffer {
    return this.take(this.number(lengthWidth))
  }
}

function named(text: string): Peeked {
  const name = text.toLowerCase().replace(/\.$/, '')
  return name.length <= maxNameLength && hostName.test(name) ? { kind: 'name', name } : none
}
