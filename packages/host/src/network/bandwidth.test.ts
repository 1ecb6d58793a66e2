import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { inNetworkNamespace } from '../linux/namespace.ts'
import { slotAddress } from '../slots/slots.ts'
import { NetworkSlots } from './network-slots.ts'

const naming = {
  instance: `w${process.pid.toString(36)}`,
  addressRange: `10.${230 + (process.pid % 20)}.0.0/16`,
  uidBase: 0x7800_0000,
  runDir: mkdtempSync(join(tmpdir(), 'bandwidth-')),
}
const port = 7000
const bytes = 15_000_000
const mbit = 40
/** What the bound leaves for it, less a second's worth that may come at once. */
const leastMs = (((bytes * 8) / (mbit * 1e6)) * 1_000 - 1_000) * 0.8
let guest: ChildProcess

/** Sends that many bytes to whoever connects and says when it has as many of theirs. */
const server = `require('net').createServer((socket) => {
  let got = 0
  socket.on('data', (chunk) => { got += chunk.length; if (got === ${bytes}) socket.end(Buffer.alloc(${bytes})) })
}).listen(${port}, '169.254.0.21', () => console.log('ready'))`

/** Milliseconds that the guest took to receive, and to send. */
async function exchange(): Promise<[received: number, sent: number]> {
  const startedMs = performance.now()
  const socket = connect({ host: slotAddress(naming, 0), port })
  socket.write(Buffer.alloc(bytes))
  await once(socket, 'readable')
  const receivedMs = performance.now()
  let got = 0
  for await (const chunk of socket) got += (chunk as Buffer).length
  expect(got).toBe(bytes)
  return [receivedMs - startedMs, performance.now() - receivedMs]
}

beforeAll(async () => {
  const slots = new NetworkSlots(naming)
  await slots.start()
  await slots.prepare(0)
  guest = inNetworkNamespace(slots.netnsPath(0), () => spawn(process.execPath, ['-e', server]))
  await once(guest.stdout!, 'data')
})
afterAll(async () => {
  guest.kill('SIGKILL')
  await new NetworkSlots(naming).remove()
  rmSync(naming.runDir, { recursive: true })
})

test('a slot gets no more than its bandwidth in either direction, and all of it again without a bound', async () => {
  expect(Math.max(...(await exchange()))).toBeLessThan(leastMs)
  await new NetworkSlots({ ...naming, mbitPerSlot: mbit }).start()
  const [received, sent] = await exchange()
  expect(received).toBeGreaterThan(leastMs)
  expect(sent).toBeGreaterThan(leastMs)
  await new NetworkSlots(naming).start()
  expect(Math.max(...(await exchange()))).toBeLessThan(leastMs)
})
