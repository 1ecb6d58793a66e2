import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { WebSocket, WebSocketServer } from 'ws'
import { connectWebSocket, plain, publicHost, readHttp2, Testbed } from './testbed.ts'

let bed: Testbed
let port: number
let sockets: WebSocketServer
beforeAll(async () => {
  bed = await Testbed.start()
  const server = createServer((_request, response) => response.end('plain'))
  sockets = new WebSocketServer({ noServer: true })
  server.on('upgrade', (request, socket, head) => {
    if (request.url === '/no') {
      socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno')
      return
    }
    sockets.handleUpgrade(request, socket, head, (client) => {
      client.on('message', (message, isBinary) => client.send(message, { binary: isBinary }))
      client.send(`hello ${request.headers['x-forwarded-host']}`)
    })
  })
  port = await bed.serve(server)
  bed.directory.routes.set('iws', { address: '127.0.0.1' })
})
afterAll(async () => {
  for (const client of sockets.clients) client.terminate()
  await bed.stop()
})

const open = (path = '/', sandboxId = 'iws', scheme: 'ws' | 'wss' = 'ws') =>
  new WebSocket(`${scheme}://127.0.0.1:${scheme === 'ws' ? bed.httpPort : bed.tlsPort}${path}`, {
    headers: { Host: publicHost(port, sandboxId) },
    ca: bed.ca.caCertPem,
  })

test.each(['ws', 'wss'] as const)(
  'messages pass both ways over %s, and an orderly close stays one',
  async (scheme) => {
    const socket = open('/', 'iws', scheme)
    expect(String((await once(socket, 'message'))[0])).toBe(`hello ${publicHost(port, 'iws')}`)
    const big = Buffer.alloc(1_000_000, 7)
    socket.send(big)
    expect(big.equals((await once(socket, 'message'))[0] as Buffer)).toBe(true)
    socket.close(4001, 'bye')
    expect((await once(socket, 'close'))[0]).toBe(4001)
  },
)

test('a refusal of the service reaches the client', async () => {
  const socket = open('/no')
  const [, incoming] = await once(socket, 'unexpected-response')
  expect(incoming.statusCode).toBe(403)
  socket.on('error', () => {})
  socket.terminate()
})

test('an unknown sandbox answers 502', async () => {
  const socket = open('/', 'inone')
  const [, incoming] = await once(socket, 'unexpected-response')
  expect(incoming.statusCode).toBe(502)
  socket.on('error', () => {})
  socket.terminate()
})

test('a client that vanishes closes the tunnel to the service', async () => {
  const socket = open()
  await once(socket, 'message')
  const [inside] = [...sockets.clients].slice(-1)
  const closed = once(inside!, 'close')
  socket.terminate()
  await closed
})

test('a kill resets tunnels', async () => {
  bed.directory.routes.set('iwskill', { address: '127.0.0.1' })
  const socket = open('/', 'iwskill')
  socket.on('error', () => {})
  await once(socket, 'message')
  const closed = once(socket, 'close')
  bed.directory.kill('iwskill')
  expect((await closed)[0]).toBe(1006)
})

test('an extended CONNECT of HTTP/2 becomes an upgrade', async () => {
  const session = bed.http2()
  await once(session, 'remoteSettings')
  const stream = connectWebSocket(session, publicHost(port, 'iws'))
  expect((await once(stream, 'response'))[0][':status']).toBe(200)
  const greeting = (await once(stream, 'data'))[0] as Buffer
  expect(greeting[0]).toBe(0x81)
  expect(greeting.subarray(2).toString()).toBe(`hello ${publicHost(port, 'iws')}`)
  stream.end()
  stream.resume()
  await once(stream, 'close')
  const refused = connectWebSocket(session, publicHost(port, 'inone'))
  expect((await readHttp2(refused)).status).toBe(502)
})

test('an offer of h2c is answered in HTTP/1.1', async () => {
  const headers = { Connection: 'Upgrade, HTTP2-Settings', Upgrade: 'h2c', 'HTTP2-Settings': 'AAMAAABk' }
  expect(await plain(bed, publicHost(port, 'iws'), { headers })).toMatchObject({ status: 200, body: 'plain' })
})

test('garbage is refused', async () => {
  const socket = connect(bed.httpPort, '127.0.0.1')
  socket.write('nonsense\r\n\r\n')
  expect(String((await once(socket, 'data'))[0])).toMatch(/^HTTP\/1.1 400/)
})
