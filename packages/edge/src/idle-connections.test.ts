import { createServer } from 'node:http'
import type { Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { plain, publicHost, Testbed } from './testbed.ts'

let bed: Testbed

beforeAll(async () => {
  bed = await Testbed.start()
})
afterAll(() => bed.stop())

test('no connection to a service of users waits so long that the service might end it', async () => {
  const sockets = new Set<Socket>()
  const closed = new Set<Socket>()
  const service = createServer((request, response) => {
    sockets.add(request.socket)
    request.socket.once('close', () => closed.add(request.socket))
    // No word of how long an idle connection lives, as most servers that are not written with Node.
    response.setHeader('Connection', 'keep-alive')
    request.resume().once('end', () => response.end('taken'))
  })
  service.keepAliveTimeout = 0
  bed.directory.routes.set('iidle', { address: '127.0.0.1' })
  const host = publicHost(await bed.serve(service), 'iidle')
  const post = (): Promise<{ body: string }> => plain(bed, host, { method: 'POST', body: 'x' })
  expect((await post()).body).toBe('taken')
  expect((await post()).body).toBe('taken')
  expect(sockets.size).toBe(1)
  await expect.poll(() => closed.size, { timeout: 10_000 }).toBe(1)
  expect((await post()).body).toBe('taken')
  expect(sockets.size).toBe(2)
})
