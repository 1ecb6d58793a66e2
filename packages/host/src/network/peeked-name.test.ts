import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { type ConnectionOptions, connect } from 'node:tls'
import fc from 'fast-check'
import { beforeAll, expect, test } from 'vitest'
import { maxPeekBytes, peekHttpHost, peekServerName } from './peeked-name.ts'

/** The bytes with which a real TLS client begins. */
async function clientHello(options: ConnectionOptions): Promise<Buffer> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const accepted = once(server, 'connection')
  const { port } = server.address() as AddressInfo
  const client = connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ...options }).on(
    'error',
    () => {},
  )
  const [socket] = await accepted
  const [bytes] = (await once(socket, 'data')) as [Buffer]
  client.destroy()
  socket.destroy()
  server.close()
  return bytes
}

let hello: Buffer
beforeAll(async () => {
  hello = await clientHello({ servername: 'Www.Good.test' })
})

/** The same handshake message in records of `size` bytes. */
function inRecords(bytes: Buffer, size: number): Buffer {
  const message = bytes.subarray(5)
  const records: Buffer[] = []
  for (let at = 0; at < message.length; at += size) {
    const part = message.subarray(at, at + size)
    records.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part)
  }
  return Buffer.concat(records)
}

test('a ClientHello says its name once it is whole, in one record or many', async () => {
  const name = { kind: 'name', name: 'www.good.test' }
  for (const bytes of [
    hello,
    inRecords(hello, 1),
    inRecords(hello, 7),
    Buffer.concat([hello, Buffer.from([23, 3, 3, 0, 1, 0])]),
  ]) {
    expect(peekServerName(bytes)).toEqual(name)
  }
  for (let length = 0; length < hello.length; length++) {
    expect(peekServerName(hello.subarray(0, length))).toEqual({ kind: 'more' })
  }
  expect(peekServerName(await clientHello({}))).toEqual({ kind: 'none' })
  expect(peekServerName(await clientHello({ servername: 'bad name' }))).toEqual({ kind: 'none' })
})

test('a request says its host when its head is whole and means one thing', () => {
  const cases: [string, string | undefined][] = [
    ['GET / HTTP/1.1\r\nHost: Good.test\r\n\r\nbody', 'good.test'],
    ['POST http://x/y HTTP/1.0\r\nA: b\r\nhost:good.test:8080 \r\n\r\n', 'good.test'],
    ['GET / HTTP/1.1\r\nHost: good.test.\r\n\r\n', 'good.test'],
    ['GET / HTTP/1.1\r\nA: b\r\n\r\n', undefined],
    ['GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n', undefined],
    ['GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n', undefined],
    ['GET / HTTP/1.1\r\nHost : a\r\n\r\n', undefined],
    ['GET / HTTP/1.1\r\nX: y\nHost: a\r\n\r\n', undefined],
    ['GET / HTTP/1.1\r\nHost: a/b\r\n\r\n', undefined],
    ['GET / HTTP/1.1\r\nHost: \r\n\r\n', undefined],
    ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', undefined],
  ]
  for (const [text, name] of cases) {
    expect([text, peekHttpHost(Buffer.from(text))]).toEqual([
      text,
      name === undefined ? { kind: 'none' } : { kind: 'name', name },
    ])
  }
  expect(peekHttpHost(Buffer.from('GET / HTTP/1.1\r\nHost: good.te'))).toEqual({ kind: 'more' })
  expect(peekHttpHost(Buffer.from(`GET / HTTP/1.1\r\nA: ${'x'.repeat(maxPeekBytes)}`))).toEqual({
    kind: 'none',
  })
})

test('whatever bytes come, reading ends without an error, and never wants more than its bound', () => {
  const changed = fc
    .tuple(fc.nat(), fc.uint8Array({ maxLength: 40 }), fc.nat({ max: 80 }))
    .map(([at, bytes, cut]) => {
      const position = at % hello.length
      return Buffer.concat([hello.subarray(0, position), bytes, hello.subarray(position + cut)])
    })
  const anything = fc.uint8Array({ minLength: 1, maxLength: 400 }).map((bytes) => Buffer.from(bytes))
  fc.assert(
    fc.property(fc.oneof(changed, anything), (bytes) => {
      peekHttpHost(bytes)
      peekServerName(bytes)
      const padded = Buffer.concat([bytes, Buffer.alloc(maxPeekBytes, bytes)])
      expect(peekHttpHost(padded).kind).not.toBe('more')
      expect(peekServerName(padded).kind).not.toBe('more')
    }),
    { numRuns: 2_000 },
  )
})
