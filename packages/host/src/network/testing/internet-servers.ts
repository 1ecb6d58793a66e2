/**
 * The servers of the tests' internet, run in its namespace with the settings as JSON in the first argument. They say
 * under which address and name they were reached, and by whom. Prints `ready`, then each UDP message it gets.
 */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'

interface Settings {
  /** Addresses of A records by name; others do not exist. */
  names: Record<string, string[]>
  key: string
  cert: string
}

const settings = JSON.parse(process.argv[2] ?? '{}') as Settings
const { key, cert } = settings

const answer: RequestListener = (request, response) => {
  const socket = request.socket as TLSSocket
  const name = socket.encrypted ? socket.servername || '' : request.headers.host
  response.end(
    JSON.stringify({ at: socket.localAddress, name, from: socket.remoteAddress, headers: request.headers }),
  )
}

/** A record in answer to a question of type A; NXDOMAIN for unknown names. */
function resolve(query: Buffer): Buffer {
  const labels: string[] = []
  let at = 12
  for (let length = query[at] ?? 0; length !== 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  const question = query.subarray(12, at + 5)
  const addresses = settings.names[labels.join('.').toLowerCase()]
  const isA = query.readUInt16BE(at + 1) === 1
  const records = (isA ? (addresses ?? []) : []).map((address) =>
    Buffer.concat([
      Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]),
      Buffer.from(address.split('.').map(Number)),
    ]),
  )
  const header = Buffer.from([0, 0, 0x81, addresses ? 0x80 : 0x83, 0, 1, 0, records.length, 0, 0, 0, 0])
  query.copy(header, 0, 0, 2)
  return Buffer.concat([header, question, ...records])
}

function serveDnsOverTcp(socket: Socket): void {
  socket.on('data', (message) => {
    const reply = resolve(message.subarray(2))
    const length = Buffer.alloc(2)
    length.writeUInt16BE(reply.length)
    socket.write(Buffer.concat([length, reply]))
  })
}

/** SOCKS5 with the credentials `user` and `secret`, or none; resolves names by itself. */
async function serveSocks(client: Socket): Promise<void> {
  const next = async (): Promise<Buffer> => (await once(client, 'data'))[0] as Buffer
  const [, , method] = await next()
  client.write(Buffer.from([5, method ?? 255]))
  if (method === 2) {
    const given = (await next()).toString('latin1')
    const isRight = given === '\x01\x04user\x06secret'
    client.write(Buffer.from([1, isRight ? 0 : 1]))
    if (!isRight) return
  }
  const request = await next()
  const isName = request[3] === 3
  const host = isName
    ? request.toString('latin1', 5, 5 + (request[4] ?? 0))
    : request.subarray(4, 8).join('.')
  const port = request.readUInt16BE(request.length - 2)
  console.log(`socks ${host}:${port}`)
  const address = isName ? (settings.names[host]?.[0] ?? '127.0.0.1') : host
  const server = connect({ port, host: address, allowHalfOpen: true })
  server.on('error', () => client.destroy())
  await once(server, 'connect')
  client.write(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
  client.pipe(server).pipe(client)
}

const socks = (socket: Socket): void => {
  socket.on('error', () => {})
  serveSocks(socket).catch(() => socket.destroy())
}

/** Speaks first, as mail and secure shell do, and says the rest back. */
function greet(socket: Socket): void {
  socket.write('hello\n')
  socket.pipe(socket)
}

const halfOpen = { allowHalfOpen: true }
const servers: [Server, number][] = [
  [createHttpServer(answer), 80],
  [createHttpServer(answer), 8080],
  [createHttpsServer({ key, cert }, answer), 443],
  [createServer(serveDnsOverTcp), 53],
  [createServer(halfOpen, greet), 22],
  [createServer(halfOpen, socks), 1080],
  [createTlsServer({ key, cert }, socks), 1443],
]
for (const [server, port] of servers) {
  server.on('connection', (socket: Socket) => socket.on('error', () => {}))
  server.on('tlsClientError', () => {})
  await once(server.listen(port, '0.0.0.0'), 'listening')
}
// Bound to each address, so that an answer comes from where the question went.
for (const address of process.argv.slice(3)) {
  const echo = createSocket('udp4').on('message', (text, from) => {
    console.log(`udp ${text}`)
    echo.send('udp', from.port, from.address)
  })
  await once(echo.bind(9999, address), 'listening')
  const dns = createSocket('udp4').on('message', (query, from) =>
    dns.send(resolve(query), from.port, from.address),
  )
  await once(dns.bind(53, address), 'listening')
}
console.log('ready')
