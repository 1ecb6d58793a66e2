import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { connectWebSocket, plain, publicHost, readHttp2, Testbed } from './testbed.ts'

let bed: Testbed
beforeAll(async () => {
  bed = await Testbed.start()
})
afterAll(() => bed.stop())

/** A service that answers every request with these bytes and closes. */
async function rawService(sandboxId: string, answer: string | ((socket: Socket) => void)) {
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => {
      if (typeof answer === 'function') answer(socket)
      else socket.end(answer, 'latin1')
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  bed.directory.routes.set(sandboxId, { address: '127.0.0.1' })
  return { host: publicHost(typeof address === 'object' && address ? address.port : 0, sandboxId), server }
}

const head = 'HTTP/1.1 200 OK\r\n'

test.each([
  ['nothing', ''],
  ['no HTTP', 'SSH-2.0-x\r\n'],
  ['control characters in the status line', 'HTTP/1.1 200 \u0001\u0002\r\nContent-Length: 0\r\n\r\n'],
  ['a status out of range', 'HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n'],
  ['an informational status alone', 'HTTP/1.1 199 Odd\r\n\r\n'],
  [
    'an upgrade that nobody asked for',
    'HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello',
  ],
  [
    'headers twice',
    `${head}Content-Type: a\r\nContent-Type: b\r\nDate: x\r\nDate: y\r\nContent-Length: 0\r\n\r\n`,
  ],
  ['two lengths', `${head}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`],
  ['length and chunks', `${head}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`],
  ['pseudo headers', `${head}:status: 500\r\nContent-Length: 0\r\n\r\n`],
  ['bytes above ASCII', `${head}X-Odd: \u00e9\u00ff\r\nContent-Length: 0\r\n\r\n`],
  [
    'odd trailers',
    `${head}Trailer: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nConnection: x\r\nDate: 1\r\nDate: 2\r\n\r\n`,
  ],
  ['a broken chunk', `${head}Transfer-Encoding: chunked\r\n\r\nzz\r\n`],
  ['a short body', `${head}Content-Length: 100\r\n\r\nab`],
  ['headers without end', `${head}${'X-Long: aaaaaaaaaaaaaaaaaaaaaaaaa\r\n'.repeat(5000)}\r\n`],
])('the edge survives a service that answers with %s', async (_name, answer) => {
  const { host, server } = await rawService('ievil', answer)
  const session = bed.http2()
  const settle = (attempt: Promise<{ status: number | undefined }>) =>
    attempt.then(
      ({ status }) => status,
      () => 'reset',
    )
  const overHttp1 = await settle(plain(bed, host))
  const overHttp2 = await settle(readHttp2(session.request({ ':path': '/', ':authority': host })))
  expect([200, 502, 999, 'reset']).toContain(overHttp1)
  expect([200, 502, 'reset']).toContain(overHttp2)
  const probe = await readHttp2(session.request({ ':path': '/', ':authority': publicHost(1, 'inone') }))
  expect(probe.status).toBe(502)
  session.destroy()
  server.close()
})

test('cookies stay apart, and the first of doubled headers counts', async () => {
  const { host, server } = await rawService(
    'icookie',
    `${head}Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nETag: "1"\r\nETag: "2"\r\nContent-Length: 0\r\n\r\n`,
  )
  expect((await plain(bed, host)).headers['set-cookie']).toEqual(['a=1', 'b=2'])
  const answer = await readHttp2(bed.http2().request({ ':path': '/', ':authority': host }))
  expect(answer.headers['set-cookie']).toEqual(['a=1', 'b=2'])
  expect(answer.headers.etag).toBe('"1"')
  server.close()
})

test('a body that ends with its connection is whole only when that ends in order', async () => {
  const ordered = await rawService('iorder', `${head}\r\nall of it`)
  expect((await plain(bed, ordered.host)).body).toBe('all of it')
  const broken = await rawService('ireset', (socket) => {
    socket.write(`${head}\r\npart`)
    setTimeout(() => socket.resetAndDestroy(), 20)
  })
  await expect(plain(bed, broken.host)).rejects.toThrow()
  ordered.server.close()
  broken.server.close()
})

test.each([
  ['Host: a', 'Host: b'],
  ['From: a', 'From: b'],
])('a tunnel whose acceptance HTTP/2 forbids is broken off (%s, %s)', async (...doubled) => {
  const acceptance = ['HTTP/1.1 101 Switching Protocols', 'Connection: Upgrade', 'Upgrade: websocket']
  const { host, server } = await rawService('itunnel', `${[...acceptance, ...doubled].join('\r\n')}\r\n\r\n`)
  const session = bed.http2()
  await once(session, 'remoteSettings')
  const stream = connectWebSocket(session, host)
  await expect(readHttp2(stream)).rejects.toThrow()
  const probe = await readHttp2(session.request({ ':path': '/', ':authority': publicHost(1, 'inone') }))
  expect(probe.status).toBe(502)
  server.close()
})

test('a service that never answers a handshake is left when its sandbox ends', async () => {
  const silent = createServer((socket) => socket.on('error', () => {}).resume())
  silent.listen(0, '127.0.0.1')
  await once(silent, 'listening')
  const { port } = silent.address() as AddressInfo
  bed.directory.routes.set('isilent', { address: '127.0.0.1', httpsPorts: [port] })
  const dialled = once(silent, 'connection') as Promise<[Socket]>
  const leaver = new AbortController()
  const answer = plain(bed, publicHost(port, 'isilent'), { signal: leaver.signal })
  const [socket] = await dialled
  const closed = once(socket, 'close')
  leaver.abort()
  await expect(answer).rejects.toThrow()
  bed.directory.kill('isilent')
  await closed
  silent.close()
})

test('a refused upgrade does not hold a connection that the client leaves half open', async () => {
  const client = connect({ port: bed.httpPort, host: '127.0.0.1', allowHalfOpen: true })
  const offer = [
    'GET / HTTP/1.1',
    `Host: ${publicHost(1, 'inone')}`,
    'Connection: Upgrade',
    'Upgrade: websocket',
  ]
  client.write(`${offer.join('\r\n')}\r\n\r\n`)
  client.on('error', () => {})
  expect(String((await once(client, 'data'))[0])).toMatch(/^HTTP\/1.1 502/)
  await once(client, 'end')
  // Only a connection that is closed on the other side too answers what is sent with a reset.
  const writing = setInterval(() => client.write('x'), 100)
  await new Promise((resolve) => client.once('close', resolve))
  clearInterval(writing)
})
