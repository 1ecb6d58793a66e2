import { once } from 'node:events'
import type { ServerResponse } from 'node:http'
import { connect as connectTls } from 'node:tls'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { publicHost, readHttp2, Testbed } from './testbed.ts'

let bed: Testbed
beforeAll(async () => {
  bed = await Testbed.start(undefined, { connectionTimes: { firstRequestMs: 300, idleMs: 300 } })
})
afterAll(() => bed.stop())

test('an HTTP/2 connection without a word is ended', async () => {
  const options = { host: '127.0.0.1', port: bed.tlsPort, ca: bed.ca.caCertPem, ALPNProtocols: ['h2'] }
  const silent = connectTls(options).on('error', () => {})
  silent.resume()
  await once(silent, 'close')
  expect(silent.alpnProtocol).toBe('h2')
})

test('one that has carried a request is ended when it idles, one with a request under way is not', async () => {
  const held: ServerResponse[] = []
  const port = await bed.sandbox('islow', (request, response) => {
    if (request.url === '/held') held.push(response)
    else response.end('at once')
  })
  const ask = (session: ReturnType<Testbed['http2']>, path: string) =>
    readHttp2(session.request({ ':authority': publicHost(port, 'islow'), ':path': path }))
  const busy = bed.http2()
  const answer = ask(busy, '/held')
  await expect.poll(() => held.length).toBe(1)
  // Two idle ones after each other take longer than the busy one may idle.
  for (let round = 0; round < 2; round++) {
    const idle = bed.http2()
    expect((await ask(idle, '/')).body).toBe('at once')
    if (!idle.closed) await once(idle, 'close')
  }
  expect(busy.closed).toBe(false)
  held[0]!.end('late')
  expect((await answer).body).toBe('late')
  if (!busy.closed) await once(busy, 'close')
})
