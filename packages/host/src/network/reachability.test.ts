/**
 * Every way from one guest to another, to this machine and to ranges that are nobody's business, with frames that a
 * hostile kernel could make. The same frames arrive once the rules are gone: so the test sees what it looks for.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { inNetworkNamespace } from '../linux/namespace.ts'
import { run } from '../linux/process.ts'
import {
  gatewayAddress,
  gatewayMac,
  guestAddress,
  guestMac,
  hostInterface,
  machineAddress,
  slotAddress,
} from '../slots/slots.ts'
import { NetworkSlots } from './network-slots.ts'

const instance = `r${process.pid.toString(36)}`
const octet = 160 + (process.pid % 30)
const naming = {
  instance,
  addressRange: `10.${octet}.0.0/16`,
  uidBase: 0x7600_0000,
  runDir: mkdtempSync(join(tmpdir(), 'reach-')),
}
const slots = new NetworkSlots(naming)
let service: Socket
let port: number
const heard: string[] = []

const ownAddresses = Object.values(networkInterfaces()).flatMap((entries = []) =>
  entries.filter(({ family }) => family === 'IPv4').map(({ address }) => address),
)
/** By what they stand for: sibling, this machine, neighbours of all and of none. */
const destinations = [
  ...[slotAddress(naming, 1), slotAddress(naming, 0), guestAddress, gatewayAddress],
  ...[machineAddress(naming), '127.0.0.1', ...ownAddresses],
  ...['169.254.169.254', '169.254.1.1', '100.100.100.200', '192.168.0.1', '172.17.0.1', '10.0.0.1'],
  ...[`10.${octet}.255.255`, '169.254.0.23', '255.255.255.255', '0.0.0.0', '224.0.0.1', '224.0.0.251'],
]
const destinations6 = ['ff02::1', 'ff02::fb', '::1', 'fe80::2', '::ffff:127.0.0.1', 'fd00::1', '2001:db8::1']
const sources = [
  slotAddress(naming, 0),
  guestAddress,
  slotAddress(naming, 1),
  machineAddress(naming),
  '127.0.0.1',
]

beforeAll(async () => {
  await slots.start()
  await slots.prepare(0)
  await slots.prepare(1)
  service = createSocket({ type: 'udp6' }).on('message', (_text, from) => heard.push(from.address))
  await once(service.bind(0, '::'), 'listening')
  port = service.address().port
})
afterAll(async () => {
  service.close()
  await slots.remove()
  rmSync(naming.runDir, { recursive: true })
})

/** Counts the marked frames that come in at the sibling, until `seen` is asked. */
async function watchSibling(): Promise<{ seen(): Promise<number> }> {
  const source = `import socket, sys, threading
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)); s.bind(('eth0', 0))
count = 0
def watch():
  global count
  while True:
    packet, address = s.recvfrom(65536)
    count += address[2] != 4 and b'reach-me' in packet
threading.Thread(target=watch, daemon=True).start()
print('ready', flush=True); sys.stdin.readline(); print(count, flush=True)`
  const child: ChildProcess = inNetworkNamespace(slots.netnsPath(1), () =>
    spawn('python3', ['-c', source], { stdio: ['pipe', 'pipe', 'inherit'] }),
  )
  const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
  expect((await lines.next()).value).toBe('ready')
  return {
    async seen() {
      child.stdin?.end('\n')
      return Number((await lines.next()).value)
    },
  }
}

/** What came of all frames: answers at the sender, what the sibling and this machine's service got. */
async function tryEachWay(): Promise<{ answers: string[]; sibling: number; service: number }> {
  heard.length = 0
  const sibling = await watchSibling()
  const plan = { destinations, destinations6, sources, port, gatewayMac, guestMac }
  const { stdout } = await inNetworkNamespace(slots.netnsPath(0), () =>
    run('python3', [join(import.meta.dirname, 'testing/raw-frames.py'), JSON.stringify(plan)]),
  )
  return {
    answers: JSON.parse(stdout) as string[],
    sibling: await sibling.seen(),
    service: heard.length,
  }
}

test('no frame of a guest reaches another guest, this machine or its neighbours, and all would without rules', async () => {
  expect(await tryEachWay()).toEqual({ answers: [], sibling: 0, service: 0 })
  await run('nft', ['delete', 'table', 'inet', instance])
  const open = await tryEachWay()
  await slots.start()
  expect(open.sibling).toBeGreaterThan(0)
  expect(open.service).toBeGreaterThan(0)
  expect(open.answers).toContain(`icmp 0 from ${machineAddress(naming)}`)
  expect(await tryEachWay()).toEqual({ answers: [], sibling: 0, service: 0 })
}, 120_000)

test('a guest changes nothing of this machine by what it says about routes and neighbours', async () => {
  const link = hostInterface(naming, 0)
  const tables = async (): Promise<string[]> =>
    Promise.all(
      [
        ['neigh', 'show'],
        ['route', 'show', 'table', 'all', 'dev', link],
        ['-6', 'route', 'show', 'table', 'all', 'dev', link],
      ].map(async (args) => (await run('ip', args)).stdout),
    )
  const before = await tables()
  await tryEachWay()
  expect((await tables()).slice(1)).toEqual(before.slice(1))
  expect((await run('ip', ['neigh', 'show', 'dev', link])).stdout.trim().split('\n')).toHaveLength(1)
})
