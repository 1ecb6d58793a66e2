import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect as connectHttp2,
  createSecureServer,
  type Http2SecureServer,
  type IncomingHttpHeaders,
} from 'node:http2'
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { run } from '../linux/process.ts'
import { EgressAuthority } from './egress-authority.ts'
import { HeaderTransforms } from './header-transforms.ts'

const name = 'api.test'
const dir = mkdtempSync(join(tmpdir(), 'transforms2-'))
let authority: EgressAuthority
/** Speaks HTTP/2; the other one HTTP/1.1 alone. */
let modern: Http2SecureServer
let old: HttpsServer
let real: Http2SecureServer | HttpsServer
let front: Server
let guest: ClientHttp2Session
let dials = 0

const portOf = (server: Pick<Server, 'address'>): number => (server.address() as AddressInfo).port

beforeAll(async () => {
  authority = await EgressAuthority.open(join(dir, 'front'))
  const realAuthority = await EgressAuthority.open(join(dir, 'real'))
  const SNICallback = (_name: string, done: (error: Error | null, context?: never) => void): void => {
    realAuthority.contextFor(name).then((context) => done(null, context as never), done)
  }
  modern = createSecureServer({ SNICallback })
  modern.on('stream', (stream, headers) => {
    stream.on('error', () => {})
    if (headers[':path'] === '/reset') {
      stream.respond({ ':status': 200 })
      stream.write('some', () => stream.destroy(new Error('broken')))
      return
    }
    if (headers[':path'] === '/plain') {
      stream.respond({ ':status': 200 })
      stream.end(JSON.stringify(headers))
      return
    }
    stream.respond({ ':status': 200, seen: JSON.stringify(headers) }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }))
    stream.pipe(stream)
  })
  old = createHttpsServer({ SNICallback }, (incoming, answer) => {
    answer.setHeader('seen', JSON.stringify(incoming.headers))
    incoming.pipe(answer)
  })
  for (const server of [modern, old]) await once(server.listen(0, '127.0.0.1'), 'listening')
  const transforms = new HeaderTransforms(authority, realAuthority.certPem)
  const dial = async (): Promise<Socket> => {
    dials++
    const socket = connect({ port: portOf(real), host: '127.0.0.1', allowHalfOpen: true })
    await once(socket, 'connect')
    return socket
  }
  front = createServer({ allowHalfOpen: true }, (client) => {
    client.on('error', () => {})
    transforms.carry(client, { name, headers: { 'X-Key': 'secret' }, dial }).catch(() => client.destroy())
  })
  await once(front.listen(0, '127.0.0.1'), 'listening')
})
beforeEach(() => {
  real = modern
  dials = 0
  guest = connectHttp2(`https://127.0.0.1:${portOf(front)}`, { servername: name, ca: authority.certPem })
})
afterEach(() => guest.destroy())
afterAll(() => {
  for (const server of [front, modern, old]) server.close()
  rmSync(dir, { recursive: true })
})

interface Got {
  status: number
  seen: Record<string, string>
  body: Buffer
  trailers: IncomingHttpHeaders
}

async function send(headers: Record<string, string>, body?: Buffer): Promise<Got> {
  const stream = guest.request({ ':method': 'POST', ':path': '/', ':authority': name, ...headers })
  stream.end(body)
  return answerOf(stream)
}

async function answerOf(stream: ClientHttp2Stream): Promise<Got> {
  let trailers: IncomingHttpHeaders = {}
  stream.on('trailers', (last) => {
    trailers = last
  })
  const [head] = (await once(stream, 'response')) as [IncomingHttpHeaders]
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  const seen = JSON.parse(String(head.seen ?? '{}')) as Record<string, string>
  return { status: Number(head[':status']), seen, body: Buffer.concat(chunks), trailers }
}

test('a client that speaks HTTP/2 gets its headers set, its body and the trailers through', async () => {
  const sent = Buffer.alloc(3_000_000, 'abc')
  const { status, seen, body, trailers } = await send({ 'x-key': 'own', 'x-other': 'kept' }, sent)
  expect(status).toBe(200)
  expect(seen).toMatchObject({ ':authority': name, 'x-key': 'secret', 'x-other': 'kept' })
  expect(body.equals(sent)).toBe(true)
  expect(trailers['grpc-status']).toBe('0')
})

test('requests at once share one connection to a server that speaks it too', async () => {
  const bodies = Array.from({ length: 20 }, (_, index) => Buffer.from(`body ${index}`))
  const got = await Promise.all(bodies.map((body) => send({}, body)))
  expect(got.map(({ body }) => String(body))).toEqual(bodies.map(String))
  expect(dials).toBe(1)
})

test('a server of HTTP/1.1 alone is spoken to in that', async () => {
  real = old
  const bodies = Array.from({ length: 20 }, (_, index) => Buffer.alloc(100_000, `${index}`))
  const got = await Promise.all(bodies.map((body) => send({}, body)))
  expect(got.every(({ body }, index) => body.equals(bodies[index]!))).toBe(true)
  expect(got[0]?.seen).toMatchObject({ host: name, 'x-key': 'secret' })
  expect(dials).toBeLessThanOrEqual(16)
})

test.each([{ ':authority': 'other.test' }, { host: 'other.test' }])(
  'a request for another host gets no headers and no server: %o',
  async (headers) => {
    expect((await send(headers)).status).toBe(421)
    expect(dials).toBe(0)
  },
)

test('a reset of the server arrives as a reset, not as the whole answer', async () => {
  const stream = guest.request({ ':method': 'GET', ':path': '/reset', ':authority': name })
  await expect(answerOf(stream)).rejects.toThrow('INTERNAL_ERROR')
  expect((await send({})).status).toBe(200)
})

test('a reset of the client does not end its request in good order', async () => {
  real = old
  const stream = guest.request({ ':method': 'POST', ':path': '/', ':authority': name })
  stream.on('error', () => {})
  const [incoming] = await Promise.all([
    once(old, 'request') as Promise<[IncomingMessage]>,
    new Promise((done) => stream.write('half', done)),
  ])
  incoming[0].on('error', () => {})
  const closed = new Promise((done) => incoming[0].once('close', done))
  stream.destroy(new Error('enough'))
  await closed
  expect(incoming[0].complete).toBe(false)
})

test('a server that is not there is answered for, and asked again by the next request', async () => {
  real = { address: () => ({ port: 1 }) } as unknown as HttpsServer
  expect((await send({})).status).toBe(502)
  real = modern
  expect((await send({})).status).toBe(200)
})

test('curl reads an answer without trailers to its end', async () => {
  const trusted = join(dir, 'trusted.pem')
  writeFileSync(trusted, authority.certPem)
  const way = ['--connect-to', `${name}:443:127.0.0.1:${portOf(front)}`, '--cacert', trusted]
  const { stdout } = await run('curl', ['-sS', '--http2', ...way, `https://${name}/plain`])
  expect(JSON.parse(stdout)).toMatchObject({ 'x-key': 'secret' })
})
