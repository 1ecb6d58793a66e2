import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest'
import { inNetworkNamespace } from '../linux/namespace.ts'
import { run } from '../linux/process.ts'
import { DnsForwarder, machineResolvers } from './dns.ts'
import { NetworkSlots } from './network-slots.ts'

/** Answers every query with its own bytes, marked as a response. */
function answerTo(query: Buffer): Buffer {
  const answer = Buffer.from(query)
  answer[2] = (answer[2] ?? 0) | 0x80
  return answer
}

function query(id: number, name = 'example'): Buffer {
  const header = Buffer.from([id >> 8, id & 255, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0])
  return Buffer.concat([header, Buffer.from([name.length]), Buffer.from(name), Buffer.from([0, 0, 1, 0, 1])])
}

let upstream: Socket
let upstreamTcp: Server
let upstreamPort: number
let asked: number
let answering: boolean

beforeEach(async () => {
  asked = 0
  answering = true
  upstream = createSocket('udp4', (message, from) => {
    asked++
    if (answering) upstream.send(answerTo(message), from.port, from.address)
  })
  upstream.bind(0, '127.0.0.1')
  await once(upstream, 'listening')
  upstreamPort = upstream.address().port
  upstreamTcp = createServer((socket) => {
    socket.on('data', (bytes) =>
      socket.end(Buffer.concat([bytes.subarray(0, 2), answerTo(bytes.subarray(2))])),
    )
  }).listen(upstreamPort, '127.0.0.1')
  await once(upstreamTcp, 'listening')
})
afterEach(() => {
  upstream.close()
  upstreamTcp.close()
})

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

interface Overrides {
  upstreams?: { address: string; port: number }[]
  upstreamTimeoutMs?: number
  maxInFlightPerClient?: number
}

async function forwarding(overrides: Overrides, use: (port: number) => Promise<void>): Promise<void> {
  const port = await freePort()
  const forwarder = new DnsForwarder({
    address: '127.0.0.1',
    port,
    upstreams: [{ address: '127.0.0.1', port: upstreamPort }],
    ...overrides,
  })
  await forwarder.start()
  try {
    await use(port)
  } finally {
    await forwarder.stop()
  }
}

async function askUdp(port: number, message: Buffer): Promise<Buffer> {
  const socket = createSocket('udp4')
  socket.send(message, port, '127.0.0.1')
  const [answer] = (await once(socket, 'message')) as [Buffer]
  socket.close()
  return answer
}

test('a query over UDP is answered by the resolver', async () => {
  await forwarding({}, async (port) => {
    expect(await askUdp(port, query(0x1234))).toEqual(answerTo(query(0x1234)))
  })
})

test('a query over TCP is answered by the resolver', async () => {
  await forwarding({}, async (port) => {
    const message = query(7)
    const socket = connect(port, '127.0.0.1')
    socket.write(Buffer.concat([Buffer.from([0, message.length]), message]))
    const [answer] = (await once(socket, 'data')) as [Buffer]
    expect(answer.subarray(2)).toEqual(answerTo(message))
    await once(socket, 'close')
  })
})

test('the next resolver is asked when the first is silent', async () => {
  const silent = createSocket('udp4')
  silent.bind(0, '127.0.0.1')
  await once(silent, 'listening')
  const upstreams = [silent.address().port, upstreamPort].map((port) => ({ address: '127.0.0.1', port }))
  await forwarding({ upstreams, upstreamTimeoutMs: 50 }, async (port) => {
    expect(await askUdp(port, query(1))).toEqual(answerTo(query(1)))
  })
  silent.close()
})

test('one client has a bounded number of queries under way, and responses and fragments are not forwarded', async () => {
  answering = false
  await forwarding({ maxInFlightPerClient: 3, upstreamTimeoutMs: 200 }, async (port) => {
    const socket = createSocket('udp4')
    socket.send(answerTo(query(1)), port, '127.0.0.1')
    socket.send(Buffer.alloc(4), port, '127.0.0.1')
    for (let id = 0; id < 20; id++) socket.send(query(id), port, '127.0.0.1')
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(asked).toBe(3)
    await new Promise((resolve) => setTimeout(resolve, 200))
    answering = true
    socket.send(query(77), port, '127.0.0.1')
    expect((await once(socket, 'message'))[0]).toEqual(answerTo(query(77)))
    socket.close()
  })
})

test('resolv.conf gives at most three resolvers', () => {
  const dir = mkdtempSync(join(tmpdir(), 'resolv-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const path = join(dir, 'resolv.conf')
  writeFileSync(
    path,
    '# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\nnameserver ::1\nnameserver 1.1.1.1\nnameserver 8.8.8.8\n',
  )
  expect(machineResolvers(path)).toEqual([
    { address: '10.0.0.1', port: 53 },
    { address: '::1', port: 53 },
    { address: '1.1.1.1', port: 53 },
  ])
})

test('a guest is answered at its gateway, by UDP and TCP, unless it has no internet', async () => {
  const instance = `d${process.pid.toString(36)}`
  const range = 123 + (process.pid % 2)
  const runDir = mkdtempSync(join(tmpdir(), 'dns-'))
  onTestFinished(() => rmSync(runDir, { recursive: true }))
  const slots = new NetworkSlots({
    instance,
    addressRange: `10.${range}.0.0/16`,
    uidBase: 0x7300_0000,
    runDir,
  })
  await slots.start()
  await slots.prepare(0)
  const upstreams = [{ address: '127.0.0.1', port: upstreamPort }]
  const resolversOf = (client: string) => slots.egressOf(client)?.resolvers
  const forwarder = new DnsForwarder({ ...slots.dnsEndpoint, upstreams, resolversOf })
  await forwarder.start()
  const script = `
import socket,struct,sys
q=bytes.fromhex('${query(5).toString('hex')}')
r=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_UDP)
r.sendto(struct.pack('>HHHH',0,53,8+len(q),0)+q,('169.254.0.22',53))
u=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); u.settimeout(0.5); u.sendto(q,('169.254.0.22',53))
try: print(u.recv(512)[:4].hex())
except OSError: print('denied')
try:
  t=socket.create_connection(('169.254.0.22',53),0.5); t.sendall(struct.pack('>H',len(q))+q); print(t.recv(512)[2:6].hex())
except OSError: print('denied')
try: socket.create_connection(('${slots.dnsEndpoint.address}',${slots.dnsEndpoint.port}),0.5); print('open')
except OSError: print('denied')`
  // A guest with a kernel of its own may ask from port 0, to which nothing can be answered.
  const ask = async (): Promise<string[]> => {
    const { stdout } = await inNetworkNamespace(slots.netnsPath(0), () => run('python3', ['-c', script]))
    return stdout.trim().split('\n')
  }
  try {
    expect(await ask()).toEqual(['00058100', '00058100', 'denied'])
    await slots.replacePolicy(0, { internet: false })
    expect(await ask()).toEqual(['00058105', 'denied', 'denied'])
  } finally {
    await forwarder.stop()
    await slots.remove()
  }
})
