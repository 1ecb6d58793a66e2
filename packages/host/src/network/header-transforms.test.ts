import { once } from 'node:events'
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { createServer as createHttpsServer, type Server as HttpsServer, request } from 'node:https'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { EgressAuthority } from './egress-authority.ts'
import { HeaderTransforms } from './header-transforms.ts'

const name = 'api.test'
const dir = mkdtempSync(join(tmpdir(), 'transforms-'))
let authority: EgressAuthority
let real: HttpsServer
let front: Server
let dials = 0
/** Name in the certificate of the real server. */
let realName = name

const portOf = (server: Server | HttpsServer): number => (server.address() as AddressInfo).port

beforeAll(async () => {
  authority = await EgressAuthority.open(join(dir, 'front'))
  const realAuthority = await EgressAuthority.open(join(dir, 'real'))
  real = createHttpsServer(
    {
      SNICallback: (_name, done) => {
        realAuthority.contextFor(realName).then((context) => done(null, context), done)
      },
    },
    (incoming, answer) => {
      if (incoming.headers['x-answer']) {
        incoming.socket.end(Buffer.from(String(incoming.headers['x-answer']), 'base64'))
        return
      }
      answer.setHeader('seen', JSON.stringify(incoming.rawHeaders))
      incoming.pipe(answer)
    },
  )
  real.on('upgrade', (incoming, socket) => {
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nseen: ${incoming.headers['x-key']}\r\n\r\n`,
    )
    socket.pipe(socket)
  })
  await once(real.listen(0, '127.0.0.1'), 'listening')
  const transforms = new HeaderTransforms(authority, realAuthority.certPem)
  const dial = async (): Promise<Socket> => {
    dials++
    const socket = connect({ port: portOf(real), host: '127.0.0.1', allowHalfOpen: true })
    await once(socket, 'connect')
    return socket
  }
  front = createServer({ allowHalfOpen: true }, (client) => {
    client.on('error', () => {})
    transforms
      .carry(client, { name, headers: { 'X-Key': 'secret', Accept: 'set' }, dial })
      .catch(() => client.destroy())
  })
  await once(front.listen(0, '127.0.0.1'), 'listening')
})

afterAll(() => {
  front.close()
  real.close()
  rmSync(dir, { recursive: true })
})

interface Got {
  status: number
  seen: string[]
  body: Buffer
}

async function send(method: string, headers: Record<string, string>, body?: Buffer): Promise<Got> {
  const options = { host: '127.0.0.1', port: portOf(front), servername: name, ca: authority.certPem }
  const outgoing = request({ ...options, method, headers: { host: name, ...headers }, agent: false })
  outgoing.end(body)
  const [response] = (await once(outgoing, 'response')) as [import('node:http').IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of response) chunks.push(chunk as Buffer)
  const seen = JSON.parse(String(response.headers.seen ?? '[]')) as string[]
  return { status: response.statusCode ?? 0, seen, body: Buffer.concat(chunks) }
}

test('headers are set over those of the request, others and the body pass', async () => {
  const sent = Buffer.alloc(3_000_000, 'abc')
  const { status, seen, body } = await send(
    'POST',
    { 'x-key': 'own', accept: 'all', 'X-Other': 'kept' },
    sent,
  )
  expect(status).toBe(200)
  expect(body.equals(sent)).toBe(true)
  const named = (key: string): string[] =>
    seen.filter((_value, at) => seen[at - 1]?.toLowerCase() === key && at % 2 === 1)
  expect(named('x-key')).toEqual(['secret'])
  expect(named('accept')).toEqual(['set'])
  expect(named('x-other')).toEqual(['kept'])
})

test('a request for another host gets no headers and no server', async () => {
  const before = dials
  expect((await send('GET', { host: 'other.test' })).status).toBe(421)
  expect(dials).toBe(before)
})

test('a server without a valid certificate is not spoken to', async () => {
  realName = 'elsewhere.test'
  expect((await send('GET', {})).status).toBe(502)
  realName = name
  expect((await send('GET', {})).status).toBe(200)
})

test.each([
  'HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n',
  'HTTP/1.1 200 O\x01K\r\nContent-Length: 0\r\n\r\n',
  'HTTP/1.1 200 OK\r\nTrailer: x\r\nContent-Length: 0\r\n\r\n',
])('an answer that cannot be passed on is none: %j', async (answer) => {
  const { status } = await send('GET', { 'x-answer': Buffer.from(answer, 'latin1').toString('base64') })
  expect(status).toBe(502)
  expect((await send('GET', {})).status).toBe(200)
})

test.each(['Connection: close\r\n', 'Connection: Upgrade\r\nUpgrade: echo\r\n'])(
  'a request that cannot be passed on is refused (%j)',
  async (lines) => {
    const { port } = front.address() as AddressInfo
    const socket = connectTls({ host: '127.0.0.1', port, servername: name, ca: authority.certPem })
    await once(socket, 'secureConnect')
    socket.on('error', () => {})
    socket.write(`GET / HTTP/1.1\r\nHost: ${name}\r\nTrailer: x\r\n${lines}\r\n`)
    let text = ''
    socket.on('data', (chunk) => {
      text += chunk
    })
    await once(socket, 'close')
    if (lines.includes('close')) expect(text).toMatch(/^HTTP\/1.1 502 /)
    expect((await send('GET', {})).status).toBe(200)
  },
  5_000,
)

test('an upgraded connection carries bytes both ways', async () => {
  const socket = connectTls({
    host: '127.0.0.1',
    port: portOf(front),
    servername: name,
    ca: authority.certPem,
  })
  await once(socket, 'secureConnect')
  socket.write(`GET / HTTP/1.1\r\nHost: ${name}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n`)
  let text = ''
  socket.on('data', (chunk) => {
    text += chunk
  })
  await expect.poll(() => text).toContain('\r\n\r\n')
  expect(text).toContain('101')
  expect(text).toContain('secret')
  socket.write('over and out')
  await expect.poll(() => text).toContain('over and out')
  socket.destroy()
})

test('an authority is made once and kept for its owner alone', async () => {
  expect((await EgressAuthority.open(join(dir, 'front'))).certPem).toBe(authority.certPem)
  expect(statSync(join(dir, 'front', 'egress-authority.pem')).mode & 0o777).toBe(0o600)
})
