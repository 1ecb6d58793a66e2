import { once } from 'node:events'
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { type ClientHttp2Session, connect as connectHttp2, constants } from 'node:http2'
import { Duplex } from 'node:stream'
import { setTimeout as wait } from 'node:timers/promises'
import { connect as connectTls } from 'node:tls'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { plain, publicHost, readHttp2, Testbed } from './testbed.ts'

let bed: Testbed
beforeAll(async () => {
  bed = await Testbed.start()
})
afterAll(() => bed.stop())

/** A service that hands its exchanges to the test. */
async function heldService(sandboxId: string) {
  const waiting: ((pair: { request: IncomingMessage; response: ServerResponse }) => void)[] = []
  const arrived: { request: IncomingMessage; response: ServerResponse }[] = []
  const port = await bed.sandbox(sandboxId, (request, response) => {
    request.on('error', () => {})
    response.on('error', () => {})
    const next = waiting.shift()
    if (next) next({ request, response })
    else arrived.push({ request, response })
  })
  const next = async () =>
    arrived.shift() ??
    new Promise<{ request: IncomingMessage; response: ServerResponse }>((r) => waiting.push(r))
  return { port, host: publicHost(port, sandboxId), next }
}

function openPlain(host: string, method = 'GET') {
  const outgoing = httpRequest({ host: '127.0.0.1', port: bed.httpPort, method, headers: { Host: host } })
  const failed = once(outgoing, 'error').then(([error]) => error as NodeJS.ErrnoException)
  failed.catch(() => {})
  const answered = once(outgoing, 'response').then(([incoming]) => incoming as IncomingMessage)
  answered.catch(() => {})
  return { outgoing, failed, answered }
}

/** Waits until `value` stands still, at most ten seconds. */
async function standstill(value: () => number): Promise<number> {
  for (let round = 0; round < 40; round++) {
    const before = value()
    await wait(250)
    if (value() === before) return before
  }
  throw new Error('it never stands still')
}

interface Frame {
  type: number
  flags: number
  length: number
  streamId: number
}

/** An HTTP/2 client whose incoming frames are written down. */
function tappedHttp2(): { session: ClientHttp2Session; frames: Frame[] } {
  const frames: Frame[] = []
  let pending = Buffer.alloc(0)
  const socket = connectTls({
    host: '127.0.0.1',
    port: bed.tlsPort,
    ca: bed.ca.caCertPem,
    ALPNProtocols: ['h2'],
  })
  const tap = new Duplex({
    read: () => {
      socket.resume()
    },
    write: (chunk, _encoding, done) => {
      socket.write(chunk, () => done())
    },
    final: (done) => {
      socket.end(() => done())
    },
    destroy: (_error, done) => {
      socket.destroy()
      done(null)
    },
  })
  socket.on('error', () => {})
  socket.on('data', (chunk: Buffer) => {
    pending = Buffer.concat([pending, chunk])
    while (pending.length >= 9) {
      const length = pending.readUIntBE(0, 3)
      if (pending.length < 9 + length) break
      frames.push({ type: pending[3]!, flags: pending[4]!, length, streamId: pending.readUInt32BE(5) })
      pending = pending.subarray(9 + length)
    }
    tap.push(chunk)
  })
  socket.on('close', () => tap.push(null))
  const session = connectHttp2(`https://127.0.0.1:${bed.tlsPort}`, { createConnection: () => tap })
  session.on('error', () => {})
  return { session, frames }
}

const DATA = 0
const RST_STREAM = 3
const END_STREAM = 1

test('each event of a stream arrives before the next is written', async () => {
  const service = await heldService('isse')
  const { outgoing, answered } = openPlain(service.host)
  outgoing.end()
  const { response } = await service.next()
  response.writeHead(200, { 'Content-Type': 'text/event-stream' })
  response.flushHeaders()
  const incoming = await answered
  for (const event of ['data: 1\n\n', 'data: 2\n\n', 'data: 3\n\n']) {
    response.write(event)
    expect(String((await once(incoming, 'data'))[0])).toBe(event)
  }
  response.end()
  await once(incoming, 'end')
})

test('over HTTP/2 too, without an empty DATA frame before the last', async () => {
  const service = await heldService('isse2')
  const { session, frames } = tappedHttp2()
  const stream = session.request({ ':path': '/', ':authority': service.host })
  const { response } = await service.next()
  response.writeHead(200, { 'Content-Type': 'text/event-stream' })
  response.flushHeaders()
  await once(stream, 'response')
  for (const event of ['data: 1\n\n', 'data: 2\n\n']) {
    response.write(event)
    response.write('')
    expect(String((await once(stream, 'data'))[0])).toBe(event)
  }
  response.end()
  stream.resume()
  await once(stream, 'close')
  const data = frames.filter((frame) => frame.type === DATA)
  expect(data.filter((frame) => frame.length === 0 && (frame.flags & END_STREAM) === 0)).toEqual([])
  expect(data.at(-1)!.flags & END_STREAM).toBe(END_STREAM)
  session.destroy()
})

test('trailers pass over both versions', async () => {
  const port = await bed.sandbox('itrail', (_request, response) => {
    response.writeHead(200, { Trailer: 'X-Sum', 'Transfer-Encoding': 'chunked' })
    response.write('body')
    response.addTrailers({ 'X-Sum': '42' })
    response.end()
  })
  const answer = await plain(bed, publicHost(port, 'itrail'))
  expect(answer).toMatchObject({ body: 'body', trailers: { 'x-sum': '42' } })
  const { session, frames } = tappedHttp2()
  const stream = session.request({ ':path': '/', ':authority': publicHost(port, 'itrail') })
  const trailers = once(stream, 'trailers')
  expect((await readHttp2(stream)).body).toBe('body')
  expect((await trailers)[0]).toMatchObject({ 'x-sum': '42' })
  expect(frames.filter((frame) => frame.type === DATA && frame.length === 0)).toEqual([])
  session.destroy()
})

test('HEAD, 204 and 304 pass without a body', async () => {
  const port = await bed.sandbox('ihead', (request, response) => {
    if (request.url === '/204') response.writeHead(204).end()
    else if (request.url === '/304') response.writeHead(304, { ETag: '"x"' }).end()
    else response.writeHead(200, { 'Content-Length': '5' }).end('hello')
  })
  const host = publicHost(port, 'ihead')
  const head = await plain(bed, host, { method: 'HEAD' })
  expect(head).toMatchObject({ status: 200, body: '', headers: { 'content-length': '5' } })
  const session = bed.http2()
  const ask = (method: string, path: string) =>
    readHttp2(session.request({ ':method': method, ':path': path, ':authority': host }))
  expect(await ask('HEAD', '/')).toMatchObject({ status: 200, body: '' })
  expect(await ask('GET', '/204')).toMatchObject({ status: 204, body: '' })
  expect(await ask('GET', '/304')).toMatchObject({ status: 304, body: '' })
  expect(await ask('GET', '/')).toMatchObject({ status: 200, body: 'hello' })
})

test('a client that leaves closes the request to the service at once', async () => {
  const service = await heldService('ileave')
  const { outgoing } = openPlain(service.host)
  outgoing.end()
  const first = await service.next()
  outgoing.destroy()
  await once(first.response, 'close')

  const stream = bed.http2().request({ ':path': '/', ':authority': service.host })
  stream.on('error', () => {})
  const second = await service.next()
  second.response.write('begun')
  await once(stream, 'response')
  stream.close(constants.NGHTTP2_CANCEL)
  await once(second.response, 'close')
  expect(second.response.writableFinished).toBe(false)
})

test('an upload that breaks off is not passed on as complete', async () => {
  const service = await heldService('ibroken')
  const stream = bed.http2().request({ ':path': '/', ':method': 'POST', ':authority': service.host })
  stream.on('error', () => {})
  stream.write('half')
  const viaHttp2 = await service.next()
  await once(viaHttp2.request, 'data')
  const closed = new Promise((resolve) => viaHttp2.request.once('close', resolve))
  // close() would first send an orderly end.
  stream.destroy(new Error('the client gives up'))
  await closed
  expect(viaHttp2.request.complete).toBe(false)

  const { outgoing } = openPlain(service.host, 'POST')
  outgoing.write('half')
  const viaHttp1 = await service.next()
  await once(viaHttp1.request, 'data')
  const closedToo = new Promise((resolve) => viaHttp1.request.once('close', resolve))
  outgoing.destroy()
  await closedToo
  expect(viaHttp1.request.complete).toBe(false)
})

test('an answer that the service breaks off is not passed on as complete', async () => {
  const service = await heldService('iabort')
  const { outgoing, answered } = openPlain(service.host)
  outgoing.end()
  const first = await service.next()
  first.response.write('begun')
  const incoming = await answered
  incoming.resume()
  const failure = once(incoming, 'error')
  first.response.destroy()
  expect((await failure)[0].code).toBe('ECONNRESET')

  const { session, frames } = tappedHttp2()
  const stream = session.request({ ':path': '/', ':authority': service.host })
  const second = await service.next()
  second.response.write('begun')
  await once(stream, 'data')
  const broken = once(stream, 'error')
  second.response.destroy()
  await broken
  expect(stream.rstCode).toBe(constants.NGHTTP2_INTERNAL_ERROR)
  const own = frames.filter((frame) => frame.streamId === stream.id)
  expect(own.some((frame) => frame.type === DATA && (frame.flags & END_STREAM) !== 0)).toBe(false)
  expect(own.some((frame) => frame.type === RST_STREAM)).toBe(true)
  session.destroy()
})

test('a kill resets streams of both versions and answers 502 on the same connections', async () => {
  const service = await heldService('ikilled')
  const { outgoing, answered } = openPlain(service.host)
  outgoing.end()
  const overHttp1 = await service.next()
  overHttp1.response.write('begun')
  const incoming = await answered
  incoming.resume()
  const { session, frames } = tappedHttp2()
  const stream = session.request({ ':path': '/', ':authority': service.host })
  const overHttp2 = await service.next()
  overHttp2.response.write('begun')
  await once(stream, 'data')
  const silent = readHttp2(session.request({ ':path': '/silent', ':authority': service.host }))
  await service.next()

  const failures = [once(incoming, 'error'), once(stream, 'error')]
  bed.directory.kill('ikilled')
  const [[error]] = (await Promise.all(failures)) as [[NodeJS.ErrnoException], unknown]
  expect(error.code).toBe('ECONNRESET')
  expect(stream.rstCode).toBe(constants.NGHTTP2_INTERNAL_ERROR)
  const ended = frames.filter((frame) => frame.type === DATA && (frame.flags & END_STREAM) !== 0)
  expect(ended.some((frame) => frame.streamId === stream.id)).toBe(false)
  // What had no answer yet is told.
  const told = await silent
  expect([told.status, JSON.parse(told.body).message]).toEqual([502, 'The sandbox was not found'])

  const probe = await readHttp2(session.request({ ':path': '/health', ':authority': service.host }))
  expect(probe.status).toBe(502)
  expect(JSON.parse(probe.body).message).toBe('The sandbox was not found')
  expect((await plain(bed, service.host)).status).toBe(502)
  session.destroy()
})

test('a slow reader holds the service back, and memory stays flat', async () => {
  const chunk = Buffer.alloc(64 * 1024, 1)
  const totalBytes = 256 * 1024 * 1024
  let written = 0
  const port = await bed.sandbox('ilarge', (_request, response) => {
    response.writeHead(200, { 'Content-Length': String(totalBytes) })
    const fill = (): void => {
      while (written < totalBytes) {
        written += chunk.length
        if (!response.write(chunk)) return
      }
      response.end()
    }
    response.on('drain', fill)
    fill()
  })
  const stream = bed.http2().request({ ':path': '/', ':authority': publicHost(port, 'ilarge') })
  await once(stream, 'response')
  stream.pause()
  // Kernel buffers and windows fill up, then everything waits for the reader.
  expect(await standstill(() => written)).toBeLessThan(32 * 1024 * 1024)
  let received = 0
  let peakBytes = 0
  for await (const part of stream) {
    received += (part as Buffer).length
    peakBytes = Math.max(peakBytes, process.memoryUsage().external)
  }
  expect(received).toBe(totalBytes)
  expect(peakBytes).toBeLessThan(128 * 1024 * 1024)
})

test('a slow service holds the uploading client back', async () => {
  const service = await heldService('iupload')
  const { outgoing } = openPlain(service.host, 'POST')
  outgoing.on('error', () => {})
  const chunk = Buffer.alloc(64 * 1024, 1)
  let sent = 0
  const fill = (): void => {
    do sent += chunk.length
    while (outgoing.write(chunk) && sent < 512 * 1024 * 1024)
  }
  outgoing.on('drain', fill)
  fill()
  const { request } = await service.next()
  request.pause()
  expect(await standstill(() => sent)).toBeLessThan(64 * 1024 * 1024)
  outgoing.destroy()
})

test('an answer that comes before the upload is over leaves the connection usable', async () => {
  const port = await bed.sandbox('iearly', (request, response) => {
    if (request.method === 'POST') response.writeHead(413).end('too large')
    else response.end('fine')
  })
  const session = bed.http2()
  const stream = session.request({
    ':path': '/',
    ':method': 'POST',
    ':authority': publicHost(port, 'iearly'),
  })
  stream.on('error', () => {})
  stream.write(Buffer.alloc(100_000))
  expect(await readHttp2(stream)).toMatchObject({ status: 413, body: 'too large' })
  stream.end()
  const next = session.request({ ':path': '/', ':authority': publicHost(port, 'iearly') })
  expect((await readHttp2(next)).body).toBe('fine')
})

test('200 streams run at once over one connection', async () => {
  const service = await heldService('imany')
  const session = bed.http2()
  const answers = Array.from({ length: 200 }, (_, index) =>
    readHttp2(session.request({ ':path': `/${index}`, ':authority': service.host })),
  )
  const held = []
  for (let count = 0; count < 200; count++) held.push(await service.next())
  for (const { request, response } of held) response.end(request.url)
  expect((await Promise.all(answers)).map(({ body }) => body)).toEqual(answers.map((_, index) => `/${index}`))
})

test('closing the edge ends what runs', async () => {
  const own = await Testbed.start()
  const port = await own.serve(createServer((_request, response) => response.write('begun')))
  own.directory.routes.set('iown', { address: '127.0.0.1' })
  const stream = own.http2().request({ ':path': '/', ':authority': publicHost(port, 'iown') })
  stream.on('error', () => {})
  await once(stream, 'data')
  await own.stop()
  expect(stream.closed).toBe(true)
})
