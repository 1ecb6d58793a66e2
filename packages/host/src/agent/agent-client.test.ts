import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import { createServer as createTcpServer } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { AgentClient } from './agent-client.ts'

/** An address of the loopback network that nothing else listens on. */
const address = '127.81.7.3'
/** Not the agent's own: something may listen on that everywhere. */
const port = 31_983
let server: Server | undefined
afterEach(() => server?.close())

async function listen(answer: (path: string, body: string) => number): Promise<void> {
  server = createServer(async (incoming, outgoing) => {
    let body = ''
    for await (const chunk of incoming) body += String(chunk)
    outgoing.writeHead(answer(incoming.url ?? '', body)).end()
  })
  server.listen(port, address)
  await once(server, 'listening')
}

const body = {
  envVars: {},
  defaultUser: 'user',
  defaultWorkdir: '/home/user',
  hostname: 'i1',
  machineId: '0'.repeat(32),
  bootId: 'b',
  generation: 'g',
  sandboxId: 'i1',
  templateId: 't',
  reseed: '00',
}

test('it waits for an agent that does not listen yet', async () => {
  const client = new AgentClient(address, port)
  const healthy = client.waitHealthy(5_000)
  await new Promise((resolve) => setTimeout(resolve, 60))
  await listen(() => 204)
  await healthy
  client.close()
})

test('a connection that breaks is repeated, and the agent gets the whole body', async () => {
  const breaking = createTcpServer((socket) => socket.resetAndDestroy()).listen(port, address)
  await once(breaking, 'listening')
  const client = new AgentClient(address, port)
  const bodies: string[] = []
  const beganMs = Date.now()
  const accepted = client.init(body, 5_000)
  await new Promise((resolve) => setTimeout(resolve, 40))
  breaking.close()
  await once(breaking, 'close')
  await listen((_path, text) => {
    bodies.push(text)
    return 204
  })
  await accepted
  const { clockMs, ...rest } = JSON.parse(bodies[0]!)
  expect(rest).toEqual(body)
  expect(clockMs).toBeGreaterThanOrEqual(beganMs)
  expect(clockMs).toBeLessThanOrEqual(Date.now())
  client.close()
})

test('a refusal is not repeated', async () => {
  let calls = 0
  await listen(() => {
    calls++
    return 401
  })
  const client = new AgentClient(address, port)
  await expect(client.init(body, 5_000)).rejects.toThrow('answered /init with 401')
  expect(calls).toBe(1)
  client.close()
})

test('nobody there within the time is an error that names address and time', async () => {
  const client = new AgentClient('127.81.7.4', port)
  await expect(client.waitHealthy(80)).rejects.toThrow('127.81.7.4 did not answer within 80 ms')
})

test('closing ends the wait', async () => {
  const client = new AgentClient('127.81.7.4', port)
  const waiting = client.waitHealthy(60_000)
  setTimeout(() => client.close(), 20)
  await expect(waiting).rejects.toThrow('ended while it was being started')
})
