import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { inNetworkNamespace } from '../linux/namespace.ts'
import { run } from '../linux/process.ts'
import { NetworkSlots } from '../network/network-slots.ts'
import { parseNetworkPolicy } from '../network/policy.ts'
import { eventsAddress, slotAddress } from '../slots/slots.ts'
import { EventListener } from './event-listener.ts'
import { LogRelay } from './log-relay.ts'

/** The way from a slot to the listener, through the real firewall. */

const runDir = mkdtempSync(join(tmpdir(), 'events-'))
const naming = {
  instance: `v${process.pid.toString(36)}`,
  addressRange: `10.${170 + (process.pid % 20)}.0.0/16`,
  uidBase: 0x7600_0000,
  runDir,
}
const slots = new NetworkSlots(naming)
const listener = new EventListener({
  ...slots.eventsEndpoint,
  sandboxAt: (address) =>
    [0, 1]
      .map((index) => slotAddress(naming, index))
      .indexOf(address)
      .toString(),
  relay: new LogRelay(),
  log: pino({ level: 'silent' }),
})

beforeAll(async () => {
  await slots.start()
  await slots.prepare(0)
  await slots.prepare(1)
  await listener.start()
})
afterAll(async () => {
  await listener.stop()
  await slots.remove()
  rmSync(runDir, { recursive: true, force: true })
})

/** Status and body of each request, or why there is none, from inside a slot; one after the other. */
async function ask(index: number, urls: readonly string[], timeoutMs = 500): Promise<string[]> {
  const program = `
    const ask = (url) => fetch(url, { signal: AbortSignal.timeout(${timeoutMs}) })
      .then(async (answer) => answer.status + ' ' + (await answer.text()), () => 'refused')
    const answers = []
    for (const url of ${JSON.stringify(urls)}) answers.push(await ask(url))
    console.log(JSON.stringify(answers))
    process.exit()`
  const { stdout } = await inNetworkNamespace(slots.netnsPath(index), () =>
    run(process.execPath, ['--input-type=module', '-e', program]),
  )
  return JSON.parse(stdout) as string[]
}

test('a guest is told apart by its slot, also when its rules deny everything', async () => {
  const me = `http://${eventsAddress}/me`
  expect([...(await ask(0, [me])), ...(await ask(1, [me]))]).toEqual([
    '200 {"sandboxID":"0"}',
    '200 {"sandboxID":"1"}',
  ])
  await slots.replacePolicy(0, parseNetworkPolicy(JSON.stringify({ denyOut: ['0.0.0.0/0'] }), false))
  expect(await ask(0, [me])).toEqual(['200 {"sandboxID":"0"}'])
})

test('nothing else of this machine comes with it', async () => {
  const { address, port } = slots.eventsEndpoint
  const others = [
    `http://${eventsAddress}:${port}/me`,
    `http://${address}:${port}/me`,
    `http://${address}/me`,
  ]
  expect(await ask(1, others)).toEqual(['refused', 'refused', 'refused'])
})

test('one guest may open few connections a second', async () => {
  const many = Array.from({ length: 120 }, () => `http://${eventsAddress}/me`)
  const answers = await ask(1, many, 50)
  expect(answers).toContain('200 {"sandboxID":"1"}')
  expect(answers).toContain('refused')
  expect(await ask(0, [`http://${eventsAddress}/me`])).toEqual(['200 {"sandboxID":"0"}'])
})
