import { Agent, createServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { connect, createServer as createTcpServer } from 'node:net'
import { text } from 'node:stream/consumers'
import { Code, ConnectError } from '@connectrpc/connect'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { plain, publicHost, readHttp2, Testbed } from './testbed.ts'

let bed: Testbed
let port: number
beforeAll(async () => {
  bed = await Testbed.start((request, response) => response.end(`api ${request.headers.host} ${request.url}`))
  port = await bed.sandbox('iabc', async (request, response) => {
    const body = await text(request)
    response.end(JSON.stringify({ url: request.url, method: request.method, headers: request.headers, body }))
  })
})
afterAll(() => bed.stop())

/** A port where nothing listens. */
async function closedPort(): Promise<number> {
  const server = createServer()
  const free = await bed.serve(server)
  await new Promise((resolve) => server.close(resolve))
  return free
}

test('the API is reached by name on both listeners', async () => {
  expect((await plain(bed, 'api.e2b.localhost', { path: '/health?x' })).body).toBe(
    'api api.e2b.localhost /health?x',
  )
  const stream = bed.http2().request({ ':path': '/sandboxes', ':authority': 'api.e2b.localhost:3443' })
  expect((await readHttp2(stream)).body).toBe('api api.e2b.localhost:3443 /sandboxes')
})

test('a request keeps method, path, body and Host, and gains forwarding headers', async () => {
  const host = publicHost(port, 'iabc')
  const answer = await plain(bed, host, {
    method: 'PUT',
    path: '/a%20b?c=d',
    body: 'hello',
    headers: { 'X-Mine': 'yes', Connection: 'X-Hop', 'X-Hop': 'secret', 'X-Forwarded-For': '192.0.2.7' },
  })
  const seen = JSON.parse(answer.body)
  expect(seen).toMatchObject({ method: 'PUT', url: '/a%20b?c=d', body: 'hello' })
  expect(seen.headers).toMatchObject({
    host,
    'x-mine': 'yes',
    'x-forwarded-host': host,
    'x-forwarded-proto': 'http',
    'x-forwarded-for': '192.0.2.7, 127.0.0.1',
  })
  expect(seen.headers['x-hop']).toBeUndefined()
})

test('HTTP/2 requests arrive as HTTP/1.1 with cookies joined', async () => {
  const stream = bed.http2().request({
    ':path': '/x',
    ':method': 'POST',
    ':authority': publicHost(port, 'iabc'),
    cookie: ['a=1', 'b=2'],
  })
  stream.end('over h2')
  const seen = JSON.parse((await readHttp2(stream)).body)
  expect(seen).toMatchObject({ method: 'POST', url: '/x', body: 'over h2' })
  expect(seen.headers).toMatchObject({ cookie: 'a=1; b=2', 'x-forwarded-proto': 'https' })
})

test('localhost goes by headers and refuses halves', async () => {
  const headers = { 'E2b-Sandbox-Id': 'iabc', 'E2b-Sandbox-Port': String(port) }
  expect((await plain(bed, 'localhost:3002', { headers })).status).toBe(200)
  const half = await plain(bed, 'localhost:3002', { headers: { 'E2b-Sandbox-Id': 'iabc' } })
  expect(half).toMatchObject({ status: 400, body: 'missing header\n' })
  expect(await plain(bed, 'nodots')).toMatchObject({ status: 400, body: 'Invalid host\n' })
})

test('an unknown sandbox answers 502 with the exact body', async () => {
  const answer = await plain(bed, publicHost(49983, 'inone'), { path: '/health' })
  expect(answer.status).toBe(502)
  expect(answer.body).toBe('{"sandboxId":"inone","message":"The sandbox was not found","code":502}')
  expect(answer.headers).toMatchObject({
    'content-type': 'application/json; charset=utf-8',
    'access-control-allow-origin': '*',
  })
})

test('a closed port answers 502 after asking the directory anew', async () => {
  const closed = await closedPort()
  const before = bed.directory.finds
  const answer = await plain(bed, publicHost(closed, 'iabc'))
  expect(answer.status).toBe(502)
  expect(answer.body).toBe(
    `{"sandboxId":"iabc","message":"The sandbox is running but port is not open","port":${closed},"code":502}`,
  )
  expect(bed.directory.finds).toBeGreaterThan(before)
})

test('a service that opens late is reached by repeated dials', async () => {
  const late = await closedPort()
  const answer = plain(bed, publicHost(late, 'iabc'), { method: 'POST', body: 'kept' })
  await new Promise((resolve) => setTimeout(resolve, 250))
  const server = createServer(async (request, response) => response.end(await text(request)))
  server.listen(late, '127.0.0.1')
  expect(await answer).toMatchObject({ status: 200, body: 'kept' })
  server.closeAllConnections()
  server.close()
})

test('browsers get a page, scripts of browsers get JSON', async () => {
  const agent = 'Mozilla/5.0 (X11) Chrome/140.0'
  const host = publicHost(80, 'inone')
  const page = await plain(bed, host, { headers: { 'User-Agent': agent, Accept: 'text/html,*/*' } })
  expect(page.status).toBe(502)
  expect(page.headers['content-type']).toContain('text/html')
  expect(page.body).toContain('The sandbox was not found')
  const fetched = await plain(bed, host, { headers: { 'User-Agent': agent, Accept: '*/*' } })
  expect(fetched.headers['content-type']).toBe('application/json; charset=utf-8')
  const scripted = { 'User-Agent': agent, Accept: 'text/html', 'Sec-Fetch-Mode': 'cors' }
  expect((await plain(bed, host, { headers: scripted })).headers['content-type']).toContain('json')
})

test('a preflight that nobody else can answer is allowed', async () => {
  const headers = {
    'Access-Control-Request-Method': 'POST',
    'Access-Control-Request-Headers': 'x-access-token',
  }
  const answer = await plain(bed, publicHost(49983, 'inone'), { method: 'OPTIONS', headers })
  expect(answer.status).toBe(204)
  expect(answer.headers['access-control-allow-headers']).toBe('x-access-token')
})

test('internal paths of the agent are refused before any look-up', async () => {
  const before = bed.directory.finds
  for (const path of ['/init', '//init', '/%69nit', '/x/../fsthaw']) {
    const answer = await plain(bed, publicHost(49983, 'iabc'), { method: 'POST', path, body: '{}' })
    expect(answer.status).toBe(404)
    const body = JSON.parse(answer.body)
    expect(Object.keys(body)).toEqual(['message', 'path', 'code'])
    expect(body).toMatchObject({ path, code: 404 })
  }
  expect(bed.directory.finds).toBe(before)
  expect((await plain(bed, publicHost(port, 'iabc'), { path: '/init' })).status).toBe(200)
})

test('a private sandbox wants its token, except on the port of the agent', async () => {
  const open = await bed.sandbox('ipriv', (_request, response) => response.end('in'), {
    trafficAccessToken: 's3cret',
  })
  const host = publicHost(open, 'ipriv')
  for (const headers of [{}, { 'E2B-Traffic-Access-Token': 'wrong' }]) {
    const answer = await plain(bed, host, { headers })
    expect(answer.status).toBe(403)
    const body = JSON.parse(answer.body)
    expect(Object.keys(body)).toEqual(['sandboxId', 'message', 'code'])
    expect(body.message).toContain('e2b-traffic-access-token')
  }
  expect((await plain(bed, host, { headers: { 'E2B-Traffic-Access-Token': 's3cret' } })).body).toBe('in')
  expect((await plain(bed, publicHost(49983, 'ipriv'))).status).not.toBe(403)
})

test('the mask replaces Host and the original is forwarded', async () => {
  const echo = await bed.sandbox(
    'imask',
    (request, response) => response.end(`${request.headers.host} ${request.headers['x-forwarded-host']}`),
    { maskRequestHost: 'localhost:${PORT}' },
  )
  const host = publicHost(echo, 'imask')
  expect((await plain(bed, host)).body).toBe(`localhost:${echo} ${host}`)
})

test('a service of its own TLS is spoken to in TLS', async () => {
  const server = createHttpsServer(bed.ca.server, (_request, response) => response.end('over tls'))
  const secure = await bed.serve(server)
  bed.directory.routes.set('itls', { address: '127.0.0.1', httpsPorts: [secure] })
  expect((await plain(bed, publicHost(secure, 'itls'))).body).toBe('over tls')
})

test('refusals of the directory keep their meaning', async () => {
  const host = publicHost(port, 'iother')
  for (const [code, status] of [
    [Code.PermissionDenied, 403],
    [Code.Aborted, 409],
    [Code.ResourceExhausted, 429],
    [Code.Unavailable, 503],
  ] as const) {
    bed.directory.refusal = new ConnectError('because', code)
    const answer = await plain(bed, host)
    expect(answer.status).toBe(status)
    expect(Object.keys(JSON.parse(answer.body))).toEqual(['sandboxId', 'message', 'code'])
  }
  bed.directory.refusal = undefined
})

test('an API that is down answers 503 and may be asked again', async () => {
  const lonely = await Testbed.start()
  const answer = await plain(lonely, 'api.e2b.localhost', { method: 'POST', body: '{}' })
  expect(answer.status).toBe(503)
  expect(answer.headers).toMatchObject({ 'retry-after': '1', 'should-retry': 'true' })
  await lonely.stop()
})

test('Expect: 100-continue is answered once the service is reached, and not before a refusal', async () => {
  const talk = (host: string): Promise<string> =>
    new Promise((resolve) => {
      const socket = connect(bed.httpPort, '127.0.0.1')
      let seen = ''
      socket.write(`POST / HTTP/1.1\r\nHost: ${host}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n`)
      socket.on('data', (chunk) => {
        seen += chunk
        if (seen.startsWith('HTTP/1.1 100') && !seen.includes('200')) socket.write('body')
        if (seen.includes('"code":502') || seen.includes('"body":"body"')) socket.end()
      })
      socket.on('close', () => resolve(seen))
    })
  expect(await talk(publicHost(port, 'iabc'))).toMatch(/^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 200/)
  expect(await talk(publicHost(port, 'inone'))).toMatch(/^HTTP\/1.1 502/)
})

test('connections to a sandbox are kept', async () => {
  let connections = 0
  const server = createServer((_request, response) => response.end())
  server.on('connection', () => connections++)
  const kept = await bed.serve(server)
  bed.directory.routes.set('ikeep', { address: '127.0.0.1' })
  const agent = new Agent({ keepAlive: true })
  for (let round = 0; round < 5; round++) await plain(bed, publicHost(kept, 'ikeep'), { agent })
  expect(connections).toBe(1)
  agent.destroy()
})

test('a kept connection that the service closed is replaced without the client noticing', async () => {
  let connections = 0
  const server = createTcpServer((socket) => {
    connections++
    socket.on('error', () => {})
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
      socket.once('data', () => socket.destroy())
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const stale = typeof address === 'object' && address ? address.port : 0
  bed.directory.routes.set('istale', { address: '127.0.0.1' })
  expect((await plain(bed, publicHost(stale, 'istale'))).body).toBe('ok')
  expect((await plain(bed, publicHost(stale, 'istale'))).body).toBe('ok')
  expect(connections).toBe(2)
  server.close()
})
