import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface, type Interface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { umount2 } from '../linux/mount.ts'
import { mountsUnder } from '../linux/mount-table.ts'
import { CLONE_NEWNET, createNamespaceAt, inNetworkNamespace } from '../linux/namespace.ts'
import { run } from '../linux/process.ts'
import { guestAddress, hostInterface, machineAddress, slotAddress } from '../slots/slots.ts'
import { NetworkSlots } from './network-slots.ts'

const instance = `t${process.pid.toString(36)}`
const range = 120 + (process.pid % 3)
const naming = {
  instance,
  addressRange: `10.${range}.0.0/16`,
  uidBase: 0x7200_0000,
  runDir: mkdtempSync(join(tmpdir(), 'net-')),
}
const slots = new NetworkSlots(naming)
const forwardingRecord = '/run/sandbox-ip_forward.before'
const forwardingBefore = readFileSync(
  existsSync(forwardingRecord) ? forwardingRecord : '/proc/sys/net/ipv4/ip_forward',
  'utf8',
)

/** Stands for the world outside: a namespace behind this machine with a public address and forbidden ones. */
const outsidePath = `/run/netns/${instance}out`
const outsideLink = `${instance}w`
const publicAddress = '198.51.100.10'
const forbidden = ['169.254.77.77', `10.${range + 40}.9.9`, '172.16.99.9', '192.168.99.9', '100.64.99.9']
const port = 8099
let hostServer: Server
let hostPort: number
let outside: Program
let sibling: Program

interface Program {
  child: ChildProcess
  lines: AsyncIterator<string>
}

/** A Node program in a network namespace; its first line says that it is ready. */
async function start(netns: string, source: string): Promise<Program> {
  const child = inNetworkNamespace(netns, () =>
    spawn(process.execPath, ['-e', source], { stdio: ['pipe', 'pipe', 'inherit'] }),
  )
  const reader: Interface = createInterface({ input: child.stdout! })
  const program = { child, lines: reader[Symbol.asyncIterator]() }
  expect(await line(program)).toBe('ready')
  return program
}

async function line(program: Program): Promise<string> {
  const { value } = await program.lines.next()
  return String(value)
}

async function end(program: Program): Promise<void> {
  const exited = once(program.child, 'exit')
  program.child.kill('SIGKILL')
  await exited
}

const echoServer = `
require('http').createServer((q, r) => r.end(q.socket.remoteAddress)).listen({ host: 'HOST', port: ${port} }, () => {
  const udp = require('dgram').createSocket('udp4')
  let peer
  udp.on('message', (text, from) => { peer = from; console.log(text + ' ' + from.address) })
  process.stdin.on('data', (text) => udp.send(text, peer.port, peer.address))
  udp.bind(${port}, 'UDP', () => console.log('ready'))
})`

const probe = `
const results = {}
const ask = ([host, port]) => new Promise((done) => {
  const say = (text) => { results[host] = text; request.destroy(); done() }
  const request = require('http').get({ host, port, agent: false, timeout: 700 }, (r) => {
    let body = ''
    r.on('data', (c) => { body += c }); r.on('end', () => say(body || 'empty'))
  })
  request.on('timeout', () => say('denied')); request.on('error', () => say('denied'))
})
Promise.all(JSON.parse(process.argv[1]).map(ask)).then(() => console.log(JSON.stringify(results)))`

/** What a process in slot 0 gets from each destination: the body, or `denied`. */
async function reach(
  targets: readonly (readonly [host: string, port: number])[],
): Promise<Record<string, string>> {
  const { stdout } = await inNetworkNamespace(slots.netnsPath(0), () =>
    run(process.execPath, ['-e', probe, JSON.stringify(targets)]),
  )
  return JSON.parse(stdout) as Record<string, string>
}

function inGuest(command: string, args: string[], stdin = ''): Promise<{ stdout: string }> {
  return inNetworkNamespace(slots.netnsPath(0), () => run(command, args, { stdin }))
}

/** Every destination a guest must not reach; a server answers at each of them. */
function deniedTargets(): (readonly [string, number])[] {
  return [
    [machineAddress(naming), hostPort],
    ['203.0.113.1', hostPort],
    [slotAddress(naming, 1), port],
    ...forbidden.map((address) => [address, port] as const),
  ]
}

const all = (targets: readonly (readonly [string, number])[], text: string): Record<string, string> =>
  Object.fromEntries(targets.map(([host]) => [host, text]))

async function nft(text: string): Promise<void> {
  await run('nft', ['-f', '-'], { stdin: text })
}

beforeAll(async () => {
  await slots.start()
  await slots.prepare(0)
  await slots.prepare(1)
  createNamespaceAt('net', CLONE_NEWNET, outsidePath)
  const addresses = [publicAddress, ...forbidden]
  await run('ip', ['-batch', '-'], {
    stdin: `link add ${outsideLink} type veth peer name up0 netns ${instance}out
address add 203.0.113.1/30 dev ${outsideLink}
link set ${outsideLink} up
${addresses.map((address) => `route add ${address}/32 via 203.0.113.2 dev ${outsideLink} onlink`).join('\n')}
`,
  })
  await inNetworkNamespace(outsidePath, () =>
    run('ip', ['-batch', '-'], {
      stdin: `link set lo up
${addresses.map((address) => `address add ${address}/32 dev lo`).join('\n')}
address add 203.0.113.2/30 dev up0
link set up0 up
route add default via 203.0.113.1
`,
    }),
  )
  hostServer = createServer((_, response) => response.end('host')).listen(0, '::')
  await once(hostServer, 'listening')
  hostPort = (hostServer.address() as AddressInfo).port
  outside = await start(outsidePath, echoServer.replace('HOST', '0.0.0.0').replace('UDP', publicAddress))
  sibling = await start(
    slots.netnsPath(1),
    echoServer.replace('HOST', guestAddress).replace('UDP', guestAddress),
  )
})

afterAll(async () => {
  await end(outside)
  await end(sibling)
  hostServer.close()
  await run('ip', ['link', 'delete', outsideLink])
  umount2(outsidePath)
  unlinkSync(outsidePath)
  await slots.remove()
  await slots.remove()
  expect(readdirSync('/run/netns').filter((name) => name.startsWith(instance))).toEqual([])
  expect(readdirSync('/sys/class/net').filter((name) => name.startsWith(instance))).toEqual([])
  expect((await run('nft', ['list', 'tables'])).stdout).not.toContain(instance)
  expect((await run('ip', ['address', 'show', 'dev', 'lo'])).stdout).not.toContain(machineAddress(naming))
  expect(mountsUnder(naming.runDir)).toEqual([])
  // Another instance, also one of a test that runs beside this, keeps forwarding on.
  if (!(await run('nft', ['list', 'chains', 'inet'])).stdout.includes('chain from_slot')) {
    expect(existsSync(forwardingRecord)).toBe(false)
    expect(readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8')).toBe(forwardingBefore)
  }
  rmSync(naming.runDir, { recursive: true })
})

describe('a guest', () => {
  test('reaches the internet, which sees this machine as the sender', async () => {
    expect(await reach([[publicAddress, port]])).toEqual({ [publicAddress]: '203.0.113.1' })
  })

  test('is reached by the machine under the slot address though it listens on its own', async () => {
    const response = await fetch(`http://${slotAddress(naming, 1)}:${port}/`)
    expect(await response.text()).toBe(machineAddress(naming))
  })

  test('does not reach host, sibling, private and link-local addresses, which answer once the rules are gone', async () => {
    const targets = deniedTargets()
    expect(await reach(targets)).toEqual(all(targets, 'denied'))
    await nft(
      ['forward', 'to_host', 'input'].map((chain) => `flush chain inet ${instance} ${chain}\n`).join(''),
    )
    const open = await reach(targets)
    expect(Object.entries(open).filter(([, body]) => body === 'denied')).toEqual([])
    await slots.start()
    expect(await reach(targets)).toEqual(all(targets, 'denied'))
  })

  test('cannot send from another address, which passes once the guard is gone', async () => {
    const stranger = `10.${range}.0.200`
    const send = (text: string, from: string): Promise<{ stdout: string }> =>
      inGuest('python3', [
        '-c',
        `import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('${from}',0)); s.sendto(b'${text}',('${publicAddress}',${port}))`,
      ])
    await inGuest('ip', ['address', 'add', `${stranger}/32`, 'dev', 'lo'])
    await send('spoofed', stranger)
    await send('honest', guestAddress)
    expect(await line(outside)).toBe('honest 203.0.113.1')
    await nft(`flush chain inet ${instance} guard\n`)
    await send('unguarded', stranger)
    expect(await line(outside)).toBe('unguarded 203.0.113.1')
    await inGuest('ip', ['address', 'delete', `${stranger}/32`, 'dev', 'lo'])
    await slots.start()
  })

  test('has no IPv6, and would not get through if it had', async () => {
    expect((await inGuest('cat', ['/proc/net/if_inet6'])).stdout).toBe('')
    const link = hostInterface(naming, 0)
    await run('ip', ['address', 'add', 'fd77::1/64', 'dev', link, 'nodad'])
    inNetworkNamespace(slots.netnsPath(0), () => {
      for (const scope of ['all', 'default', 'eth0']) {
        writeFileSync(`/proc/sys/net/ipv6/conf/${scope}/disable_ipv6`, '0')
      }
    })
    await inGuest('ip', ['address', 'add', 'fd77::2/64', 'dev', 'eth0', 'nodad'])
    const target = ['fd77::1', hostPort] as const
    expect(await reach([target])).toEqual({ 'fd77::1': 'denied' })
    await nft(`flush chain inet ${instance} guard\nflush chain inet ${instance} to_host\n`)
    expect(await reach([target])).toEqual({ 'fd77::1': 'host' })
    await slots.start()
    await slots.prepare(0)
  })

  test("sees the network devices of its slot in the slot's sysfs, and nothing to write", () => {
    expect(readdirSync(join(slots.sysfsPath(0), 'class', 'net')).sort()).toEqual(['eth0', 'lo'])
    expect(readdirSync(join(slots.sysfsPath(0), 'fs', 'cgroup'))).toEqual([])
    expect(() => writeFileSync(join(slots.sysfsPath(0), 'class/net/lo/mtu'), '1000')).toThrow('EROFS')
  })

  test('binds low ports and pings without capabilities over its namespace', async () => {
    const script = 'import socket; socket.create_server(("169.254.0.21", 80)); print("bound")'
    const { stdout } = await inGuest('setpriv', [
      '--reuid=65534',
      '--clear-groups',
      '/usr/bin/python3',
      '-c',
      script,
    ])
    expect(stdout.trim()).toBe('bound')
  })

  test('has no multipath TCP, whose sockets cannot be captured', async () => {
    const script =
      'import socket\ntry: socket.socket(2, 1, 262)\nexcept OSError as error: print(error.strerror)'
    const { stdout } = await inGuest('/usr/bin/python3', ['-c', script])
    expect(stdout.trim()).toBe('Protocol not available')
  })
})

test('a slot without internet reaches nothing, a restarted daemon knows it, and it can be given back', async () => {
  const target = [publicAddress, port] as const
  await slots.replacePolicy(0, { internet: false })
  await slots.replacePolicy(0, { internet: false })
  expect(await reach([target])).toEqual({ [publicAddress]: 'denied' })
  const restarted = new NetworkSlots(naming)
  await restarted.start([[0, { internet: false }]])
  expect(await reach([target])).toEqual({ [publicAddress]: 'denied' })
  await restarted.replacePolicy(0, { internet: true })
  expect(await reach([target])).not.toEqual({ [publicAddress]: 'denied' })
  await slots.replacePolicy(0, { internet: true })
})

test('rules that somebody removed are noticed and come back with the policies of running slots', async () => {
  const targets = [...deniedTargets(), [publicAddress, port] as const]
  await slots.replacePolicy(0, { internet: false })
  expect(slots.rulesPresent()).toBe(true)
  await run('nft', ['delete', 'table', 'inet', instance])
  expect(slots.rulesPresent()).toBe(false)
  expect(Object.values(await reach(targets))).toContain('host')
  await slots.start()
  expect(slots.rulesPresent()).toBe(true)
  expect(await reach(targets)).toEqual(all(targets, 'denied'))
  await slots.replacePolicy(0, { internet: true })
  expect(await reach([[publicAddress, port]])).toEqual({ [publicAddress]: '203.0.113.1' })
})

test('packets of a forgotten flow no longer arrive in the slot', async () => {
  const client = await start(
    slots.netnsPath(0),
    `const udp = require('dgram').createSocket('udp4')
udp.on('message', (text) => console.log(String(text)))
udp.bind(5555, () => { console.log('ready'); udp.send('hello', ${port}, '${publicAddress}') })`,
  )
  expect(await line(outside)).toBe('hello 203.0.113.1')
  outside.child.stdin!.write('within the flow')
  expect(await line(client)).toBe('within the flow')
  slots.forgetFlows(0)
  outside.child.stdin!.write('late')
  const late = line(client)
  const silence = new Promise((resolve) => setTimeout(resolve, 300, 'silence'))
  expect(await Promise.race([late, silence])).toBe('silence')
  await end(client)
})

test('a guest has a bounded number of connections, and gets them back when they are forgotten', async () => {
  const limited = new NetworkSlots({ ...naming, maxFlowsPerSlot: 20 })
  const burst = `import socket
for i in range(60):
  s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.sendto(b'%d' % i,('${publicAddress}',${port}))`
  slots.forgetFlows(0)
  await limited.start()
  for (let round = 0; round < 2; round++) {
    await inGuest('python3', ['-c', burst])
    await run('python3', [
      '-c',
      `import socket
socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'end',('${publicAddress}',${port}))`,
    ])
    let arrived = 0
    while ((await line(outside)) !== 'end 203.0.113.1') arrived++
    // The kernel's count is a little late, never far.
    expect(arrived).toBeGreaterThanOrEqual(20)
    expect(arrived).toBeLessThan(40)
    slots.forgetFlows(0)
  }
  await slots.start()
})

test('an instance in the range of another does not start, and disturbs nothing', async () => {
  const intruder = new NetworkSlots({ ...naming, instance: `${instance}x` })
  await expect(intruder.start()).rejects.toThrow(`instance '${instance}' uses the address range`)
  expect(await reach([[publicAddress, port]])).toEqual({ [publicAddress]: '203.0.113.1' })
})

test('sweep removes exactly the slots that are not known', async () => {
  await slots.prepare(7)
  expect(await slots.list()).toEqual([0, 1, 7])
  expect(await slots.sweep(new Set([0, 1]))).toEqual([7])
  expect(await slots.list()).toEqual([0, 1])
  await slots.destroy(7)
})
