import { readFileSync } from 'node:fs'
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

/** Seconds until TCP asks the other end of an established connection to this port whether it is there. */
function probedAfterSec(port: number): number {
  const to = `:${port.toString(16).toUpperCase().padStart(4, '0')}`
  const rows = readFileSync('/proc/net/tcp', 'utf8').split('\n')
  for (const row of rows.map((text) => text.trim().split(/\s+/))) {
    const [, , remote, state, , timer] = row
    if (!remote?.endsWith(to) || state !== '01') continue
    const [kind, hundredths] = timer!.split(':')
    return kind === '02' ? Number.parseInt(hundredths!, 16) / 100 : Number.POSITIVE_INFINITY
  }
  throw new Error(`there is no connection to port ${port}`)
}

test('a guest that stands still for long is not taken for gone by TCP', async () => {
  const port = await bed.serve(
    createServer((request, response) => request.resume().once('end', () => response.end())),
  )
  bed.directory.routes.set('istill', { address: '127.0.0.1' })
  await plain(bed, publicHost(port, 'istill'))
  expect(probedAfterSec(port)).toBeGreaterThan(600)
})
