import { once } from 'node:events'
import { isIPv4, type Socket } from 'node:net'
import { addressNumber } from './address-ranges.ts'

const version = 5
const connectCommand = 1
const noAuthentication = 0
const passwordAuthentication = 2
const addressType = { ipv4: 1, name: 3, ipv6: 4 } as const

export interface Credentials {
  username?: string | undefined
  password?: string | undefined
}

/**
 * Asks a SOCKS5 server for a connection over `socket`, which carries it afterwards. The caller bounds the time by
 * destroying the socket.
 * @param host an IPv4 address, or a name that the server resolves
 * @throws Error that says what the server refused
 */
export async function socksConnect(
  socket: Socket,
  host: string,
  port: number,
  { username, password = '' }: Credentials,
): Promise<void> {
  const method = username === undefined ? noAuthentication : passwordAuthentication
  socket.write(Buffer.from([version, 1, method]))
  const [chosenVersion, chosen] = await read(socket, 2)
  if (chosenVersion !== version || chosen !== method) throw new Error('the proxy refuses the authentication')
  if (username !== undefined) {
    socket.write(Buffer.concat([Buffer.from([1]), counted(username), counted(password)]))
    const [, status] = await read(socket, 2)
    if (status !== 0) throw new Error('the proxy refuses the credentials')
  }
  socket.write(Buffer.concat([Buffer.from([version, connectCommand, 0]), destination(host, port)]))
  const [replyVersion, reply, , type] = await read(socket, 4)
  if (replyVersion !== version || reply !== 0) throw new Error(`the proxy refuses the connection (${reply})`)
  // Where the proxy connects from is of no use, but must be read.
  if (type === addressType.ipv4) await read(socket, 4 + 2)
  else if (type === addressType.ipv6) await read(socket, 16 + 2)
  else if (type === addressType.name) await read(socket, ((await read(socket, 1))[0] ?? 0) + 2)
  else throw new Error('the answer of the proxy is malformed')
}

function destination(host: string, port: number): Buffer {
  const portBytes = Buffer.from([port >> 8, port & 255])
  if (!isIPv4(host)) return Buffer.concat([Buffer.from([addressType.name]), counted(host), portBytes])
  const address = Buffer.alloc(5)
  address[0] = addressType.ipv4
  address.writeUInt32BE(addressNumber(host), 1)
  return Buffer.concat([address, portBytes])
}

/** Text with its length in one byte before it. */
function counted(text: string): Buffer {
  const bytes = Buffer.from(text)
  if (bytes.length > 255) throw new RangeError('longer than 255 bytes')
  return Buffer.concat([Buffer.from([bytes.length]), bytes])
}

/** Exactly so many bytes; what follows them stays in the stream. Throws when it ends before. */
async function read(socket: Socket, bytes: number): Promise<Buffer> {
  for (;;) {
    const chunk = socket.read(bytes) as Buffer | null
    if (chunk?.length === bytes) return chunk
    if (chunk !== null || socket.readableEnded || socket.destroyed) throw new Error('the proxy hung up')
    const settled = new AbortController()
    const { signal } = settled
    await Promise.race(['readable', 'end', 'close'].map((event) => once(socket, event, { signal }))).finally(
      () => settled.abort(),
    )
  }
}
