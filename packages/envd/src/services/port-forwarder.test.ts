import { connect, createServer, type Server } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { PortForwarder, parseListeners } from './port-forwarder.ts'

const OUTSIDE = '127.0.0.77'
const open: { close(): void }[] = []

afterEach(() => {
  for (const item of open.splice(0)) item.close()
})

function listen(host: string): Promise<{ server: Server; port: number }> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.pipe(socket))
    server.once('error', reject)
    server.listen(0, host, () => {
      const address = server.address()
      resolve({ server, port: typeof address === 'object' && address ? address.port : 0 })
    })
    open.push(server)
  })
}

function echo(host: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host, port }, () => socket.end('ping'))
    let text = ''
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    socket.on('error', (error) => resolve(error.message))
    socket.on('close', () => resolve(text))
  })
}

test('tables name loopback and wildcard listeners', () => {
  const { loopback, wildcard } = parseListeners(
    [
      '  sl  local_address rem_address   st tx_queue',
      '   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000',
      '   1: 00000000:0050 00000000:0000 0A 00000000:00000000',
      '   2: 0100007F:1F91 0100007F:9999 01 00000000:00000000',
      '   3: 00000000000000000000000001000000:0BB8 00000000000000000000000000000000:0000 0A 0:0',
    ].join('\n'),
  )
  expect([...loopback]).toEqual([
    [8080, '127.0.0.1'],
    [3000, '::1'],
  ])
  expect([...wildcard]).toEqual([80])
})

test.each(['127.0.0.1', '::ffff:127.0.0.1'])(
  'a listener on %s is reachable from outside while it lives',
  async (address) => {
    const forwarder = new PortForwarder(OUTSIDE, () => false)
    open.push(forwarder)
    const { server, port } = await listen(address)
    forwarder.scan()
    await expect.poll(() => echo(OUTSIDE, port)).toBe('ping')
    await new Promise((resolve) => server.close(resolve))
    forwarder.scan()
    await expect.poll(() => echo(OUTSIDE, port)).toContain('ECONNREFUSED')
  },
)

test('attention finds a listener within the second scan', async () => {
  const forwarder = new PortForwarder(OUTSIDE, () => false)
  open.push(forwarder)
  forwarder.attend()
  const { port } = await listen('127.0.0.1')
  await expect.poll(() => echo(OUTSIDE, port), { timeout: 3000 }).toBe('ping')
})
