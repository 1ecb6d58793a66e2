import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { inNetworkNamespace } from '../linux/namespace.ts'
import { run } from '../linux/process.ts'
import { hostInterface, slotAddress } from '../slots/slots.ts'
import { NetworkSlots } from './network-slots.ts'
import { type NetworkPolicy, openPolicy } from './policy.ts'
import {
  all,
  type EgressFixture,
  google,
  http,
  one,
  openEgressFixture,
  three,
  tls,
  two,
  udp,
  type Want,
} from './testing/egress-fixture.ts'

let fixture: EgressFixture
const probe = (...wants: Want[]): Promise<string[]> => fixture.probe(...wants)
const apply = (config: object, internetAccess = true): Promise<void> => fixture.apply(config, internetAccess)

beforeAll(async () => {
  fixture = await openEgressFixture('g')
})
afterEach(() => fixture.slots.replacePolicy(0, openPolicy))
afterAll(() => fixture.close())

/** Under the open policy everything outside answers: what is denied below is denied by the rule under test. */
test('without rules everything outside is reached, directly', async () => {
  expect(await probe(http(one), tls(two), { kind: 'hello', address: three }, udp(one))).toEqual([
    one,
    two,
    'hello\necho',
    'udp',
  ])
  expect(fixture.proxy.counts.total).toBe(0)
})

describe('addresses and ranges', () => {
  test('a denied address is refused at once, for every protocol; others are not', async () => {
    await apply({ denyOut: [one] })
    const before = performance.now()
    expect(await probe(http(one), tls(one), { kind: 'hello', address: one })).toEqual([
      'denied',
      'denied',
      'denied',
    ])
    expect(performance.now() - before).toBeLessThan(1_400)
    expect(await probe(udp(one), http(two), udp(two))).toEqual(['denied', two, 'udp'])
  })

  test('a denied range, and an allowed address within it', async () => {
    await apply({ denyOut: ['198.51.100.0/24'], allowOut: [two] })
    expect(await probe(http(one), http(two), udp(three), udp(two), http(google))).toEqual([
      'denied',
      two,
      'denied',
      'udp',
      google,
    ])
  })

  test('allowing everything beats denying everything', async () => {
    await apply({ denyOut: all, allowOut: [...all, one] })
    expect(await probe(http(one), udp(two), tls(three))).toEqual([one, 'udp', three])
  })

  test('no internet access denies all but what is allowed', async () => {
    await apply({ allowOut: [one], denyOut: [two] }, false)
    expect(await probe(http(one), http(two), http(three), udp(one), udp(three))).toEqual([
      one,
      'denied',
      'denied',
      'udp',
      'denied',
    ])
  })

  test('internal ranges stay closed whatever is allowed', async () => {
    const wants = [
      http(fixture.inner),
      udp(fixture.inner),
      http('169.254.169.254'),
      http(fixture.slots.egressEndpoint.address),
    ]
    for (const allowOut of [all, [fixture.inner, '10.0.0.0/8', '169.254.0.0/16'], ['*']]) {
      await apply({ allowOut, denyOut: all })
      expect(await probe(...wants)).toEqual(['denied', 'denied', 'denied', 'denied'])
    }
  })

  test('a large packet in fragments is judged as a whole one is', async () => {
    expect(await probe({ ...udp(one), size: 4_000 })).toEqual(['udp'])
    await apply({ denyOut: [one] })
    expect(await probe({ ...udp(one), size: 4_000 })).toEqual(['denied'])
  })

  test('a change holds for a UDP exchange that is under way', async () => {
    const script = `import socket,sys
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(0.7)
for line in sys.stdin:
  try: s.sendto(b'x',('${one}',9999)); print(s.recv(9).decode(), flush=True)
  except OSError: print('denied', flush=True)`
    const child = inNetworkNamespace(fixture.slots.netnsPath(0), () => spawn('python3', ['-c', script]))
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    const say = async (): Promise<string> => {
      child.stdin.write('\n')
      return (await lines.next()).value as string
    }
    expect(await say()).toBe('udp')
    await apply({ denyOut: all })
    expect(await say()).toBe('denied')
    await fixture.slots.replacePolicy(0, openPolicy)
    expect(await say()).toBe('udp')
    child.kill('SIGKILL')
  })
})

describe('names', () => {
  test('an exact name, by Host and by SNI; nothing else', async () => {
    await apply({ allowOut: ['Good.test'], denyOut: all })
    const wants = [
      http(one, 'good.test'),
      tls(one, 'GOOD.test'),
      http(one, 'good.test:80'),
      http(two, 'www.good.test'),
    ]
    expect(await probe(...wants)).toEqual([one, one, one, 'denied'])
    expect(await probe(http(three, 'bad.test'), tls(three, 'bad.test'), tls(one), http(one))).toEqual([
      'denied',
      'denied',
      'denied',
      'denied',
    ])
    expect(await probe({ ...http(one, 'good.test'), port: 8080 }, udp(one))).toEqual(['denied', 'denied'])
  })

  test('a suffix does not match the apex, a star matches all names', async () => {
    await apply({ allowOut: ['*.good.test'], denyOut: all })
    expect(await probe(http(two, 'www.good.test'), http(one, 'good.test'), http(one, 'xgood.test'))).toEqual([
      two,
      'denied',
      'denied',
    ])
    await apply({ allowOut: ['*'], denyOut: all })
    expect(await probe(http(one, 'good.test'), tls(three, 'bad.test'), tls(one))).toEqual([
      one,
      three,
      'denied',
    ])
  })

  test('a name claimed for another address leads where the name does', async () => {
    await apply({ allowOut: ['good.test', three], denyOut: all })
    const wants = [
      http(two, 'good.test'),
      tls(two, 'good.test'),
      tls(three, 'good.test'),
      http(google, 'good.test'),
    ]
    expect(await probe(...wants)).toEqual([one, one, one, one])
  })

  test('a name that resolves to an internal address is refused, one that does in part leads to the other', async () => {
    await apply({ allowOut: ['*'], denyOut: all })
    const names = ['inner.test', 'self.test', 'nowhere.test', fixture.inner, '127.0.0.1', 'localhost']
    expect(await probe(...names.map((name) => http(one, name)))).toEqual(names.map(() => 'denied'))
    expect(await probe(http(three, 'mixed.test'))).toEqual([one])
  })

  test('slow, doubled, folded and unknown requests', async () => {
    await apply({ allowOut: ['good.test'], denyOut: all })
    expect(await probe({ ...http(one, 'good.test'), slow: true })).toEqual([one])
    const raw = (bytes: string): Want => ({ kind: 'raw', address: one, bytes })
    const evil = [
      'GET / HTTP/1.1\r\nHost: good.test\r\nHost: bad.test\r\n\r\n',
      'GET / HTTP/1.1\r\nHost: bad.test\r\n host: good.test\r\n\r\n',
      'GET / HTTP/1.1\nHost: good.test\n\n',
      'GET / HTTP/1.1\r\nHost : good.test\r\n\r\n',
      'hello\r\n\r\n',
      '\0\0\0\0',
    ]
    expect(await probe(...evil.map(raw))).toEqual(evil.map(() => 'denied'))
  })

  test('a server that speaks first is reached on any port, where its address is allowed', async () => {
    await apply({ allowOut: ['good.test', one], denyOut: all })
    const hello = { kind: 'hello', address: one } as const
    expect(await probe(hello, { ...hello, address: two })).toEqual(['hello\necho', 'denied'])
  })

  test('a change applies to the next connection', async () => {
    for (let round = 0; round < 3; round++) {
      await apply({ allowOut: ['good.test'], denyOut: all })
      expect(await probe(http(one, 'good.test'), http(three, 'bad.test'))).toEqual([one, 'denied'])
      await apply({ allowOut: ['bad.test'], denyOut: all })
      expect(await probe(http(one, 'good.test'), http(three, 'bad.test'))).toEqual(['denied', three])
      await apply({})
      expect(await probe(http(one, 'good.test'), http(three, 'bad.test'))).toEqual([one, three])
    }
  })
})

test('the resolver of E2B is open to a sandbox with names, others are when asked for', async () => {
  const lookup = async (server: string): Promise<string> => {
    const query = `import socket,struct
q=bytes.fromhex('000501000001000000000000')+b'\\4good\\4test\\0'+bytes.fromhex('00010001')
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(0.7); s.sendto(q,('${server}',53))
try: r=s.recv(512); print('refused' if r[3]&15 else '.'.join(map(str,r[-4:])))
except OSError: print('denied')`
    return (
      await inNetworkNamespace(fixture.slots.netnsPath(0), () => run('python3', ['-c', query]))
    ).stdout.trim()
  }
  const ask = async (): Promise<string[]> => [
    await lookup('169.254.0.22'),
    await lookup(google),
    await lookup(three),
  ]
  expect(await ask()).toEqual([one, one, one])
  await apply({ allowOut: ['good.test'], denyOut: all })
  expect(await ask()).toEqual([one, one, 'denied'])
  await apply({ allowOut: ['good.test'], denyOut: all, dnsServers: [three] })
  expect(await ask()).toEqual([one, 'denied', one])
  await apply({ allowOut: ['good.test'], denyOut: all, dnsServers: [] })
  expect(await ask()).toEqual(['refused', 'denied', 'denied'])
  await apply({ allowOut: ['good.test'], denyOut: all, dnsServers: [fixture.inner] })
  expect(await ask()).toEqual(['refused', 'denied', 'denied'])
  await apply({ denyOut: all, dnsServers: [three] })
  expect(await ask()).toEqual(['refused', 'denied', 'denied'])
  await apply({ denyOut: all, allowOut: [google] })
  expect(await ask()).toEqual([one, one, 'denied'])
})

describe('a SOCKS5 proxy', () => {
  const address = `${two}:1080`
  const take = (): string[] => fixture.internet.lines.filter((line) => line.startsWith('socks'))

  test('carries every connection that the lists let through, names unresolved', async () => {
    const before = take().length
    await apply({ egressProxy: { address, username: 'user', password: 'secret' }, denyOut: [google] })
    expect(await probe(http(one), { kind: 'hello', address: three }, http(google))).toEqual([
      one,
      'hello\necho',
      'denied',
    ])
    await apply({ egressProxy: { address }, allowOut: ['bad.test'], denyOut: all })
    expect(await probe(tls(one, 'bad.test'), tls(one, 'good.test'), http(fixture.inner))).toEqual([
      three,
      'denied',
      'denied',
    ])
    expect(take().slice(before).sort()).toEqual(
      [`socks ${one}:80`, `socks ${three}:22`, 'socks bad.test:443'].sort(),
    )
  })

  test('wrong credentials, a proxy that is not there or not public: nothing goes out', async () => {
    for (const egressProxy of [
      { address, username: 'user', password: 'wrong' },
      { address: `${two}:9` },
      { address: `${fixture.inner}:1080` },
      { address: 'inner.test:1080' },
    ]) {
      await apply({ egressProxy })
      expect(await probe(http(one), { kind: 'hello', address: one })).toEqual(['denied', 'denied'])
    }
  })

  test('over TLS with the names checked, never in the clear', async () => {
    const caCert = fixture.internet.cert
    const proxyOver = (tls: object, at = `www.good.test:1443`): Promise<void> =>
      apply({ egressProxy: { address: at, tls } })
    await proxyOver({ enabled: true, caCert })
    expect(await probe(http(one))).toEqual([one])
    await proxyOver({ enabled: true, caCert }, `${two}:1443`)
    expect(await probe(http(one))).toEqual([one])
    await proxyOver({ enabled: true, caCert, serverName: 'elsewhere.test' })
    expect(await probe(http(one))).toEqual(['denied'])
    await proxyOver({ enabled: true })
    expect(await probe(http(one))).toEqual(['denied'])
    await proxyOver({ enabled: true, caCert }, address)
    expect(await probe({ ...http(one), timeout: 2 })).toEqual(['denied'])
  })
})

test('nothing a guest says about addresses moves the traffic of another', async () => {
  const { slots, naming } = fixture
  const neighbour = slotAddress(naming, 1)
  const before = (await run('ip', ['neigh', 'show', 'to', neighbour])).stdout
  expect(before).toContain('PERMANENT')
  // Announces the neighbour's and the gateway's address as its own, as the kernel of a hostile guest could.
  const announce = `import socket
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('eth0',0)); me=s.getsockname()[4]
for address in ('${neighbour}','169.254.0.22','${one}'):
  ip=socket.inet_aton(address)
  for op in (1,2):
    s.send(b'\\xff'*6+me+b'\\x08\\x06'+b'\\0\\1\\x08\\0\\6\\4\\0'+bytes([op])+me+ip+b'\\xff'*6+ip)`
  await inNetworkNamespace(slots.netnsPath(0), () => run('python3', ['-c', announce]))
  expect((await run('ip', ['neigh', 'show', 'to', neighbour])).stdout).toBe(before)
  expect(
    (await run('ip', ['neigh', 'show', 'dev', hostInterface(naming, 0)])).stdout.trim().split('\n'),
  ).toHaveLength(1)
  expect(await probe(http(one))).toEqual([one])
})

test('a rule sets headers on HTTPS requests to its names alone, and allows nothing by itself', async () => {
  const { slots, naming, authorityPem } = fixture
  const trusted = join(naming.runDir, 'authority.pem')
  writeFileSync(trusted, authorityPem)
  const get = async (name: string, address: string, ...more: string[]): Promise<string> => {
    const args = ['-s', '-m', '2', '--cacert', trusted, '--resolve', `${name}:443:${address}`, ...more]
    const answer = inNetworkNamespace(slots.netnsPath(0), () => run('curl', [...args, `https://${name}/`]))
    const text = await answer.then(({ stdout }) => stdout).catch(() => '{"at":"denied","headers":{}}')
    const { at, headers } = JSON.parse(text) as { at: string; headers: Record<string, string> }
    return `${at} ${headers['x-key']}`
  }
  const rule = (value: string): object[] => [{ transform: { headers: { 'X-Key': value } } }]
  await apply({ rules: { 'good.test': rule('exact'), '*.good.test': rule('suffix') } })
  expect(await get('good.test', one, '-H', 'x-key: own')).toBe(`${one} exact`)
  expect(await get('www.good.test', three)).toBe(`${two} suffix`)
  expect(await get('bad.test', three)).toBe('denied undefined')
  expect(await probe(tls(three, 'bad.test'), http(one, 'good.test'))).toEqual([three, one])
  await apply({ rules: { 'good.test': rule('exact') }, denyOut: all })
  expect(await get('good.test', one)).toBe('denied undefined')
  await expect.poll(() => fixture.proxy.counts.total).toBe(0)
})

test('one sandbox has a bounded number of connections, and loses them with its slot', async () => {
  await apply({ allowOut: ['good.test'], denyOut: all })
  const script = `import socket,sys
request=b'GET / HTTP/1.1\\r\\nHost: good.test\\r\\n\\r\\n'
open_=[]
for i in range(12):
  try:
    s=socket.create_connection(('${one}',80),20)
    s.sendall(request)
    if s.recv(9): open_.append(s)
  except OSError: pass
print(len(open_), flush=True)
sys.stdin.readline()
lost=0
for s in open_:
  try:
    while s.recv(4096): pass
  except ConnectionResetError: lost+=1
  except OSError: pass
print(lost, flush=True)`
  const child = inNetworkNamespace(fixture.slots.netnsPath(0), () => spawn('python3', ['-c', script]))
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  expect((await lines.next()).value).toBe('8')
  fixture.proxy.drop(slotAddress(fixture.naming, 0))
  child.stdin.write('\n')
  expect((await lines.next()).value).toBe('8')
  expect(fixture.proxy.counts.total).toBe(0)
})

test('a restarted daemon puts back what it is told, long lists too', async () => {
  const policy: NetworkPolicy = { internet: true, denyOut: ['198.51.100.0/24'], allowOut: [one, 'bad.test'] }
  await fixture.slots.replacePolicy(0, policy)
  const restarted = new NetworkSlots(fixture.naming)
  await restarted.start([[0, policy]])
  expect(await probe(http(one), http(two))).toEqual([one, 'denied'])
  await restarted.replacePolicy(0, openPolicy)
  expect(await probe(http(two))).toEqual([two])
  await fixture.slots.start()
  await fixture.slots.replacePolicy(0, openPolicy)

  const list = Array.from({ length: 1_000 }, (_, i) => `198.${51 + (i >> 8)}.${i & 255}.0/25`)
  const few: NetworkPolicy = { internet: true, denyOut: all, allowOut: [one, two, 'good.test'] }
  const many: NetworkPolicy = { internet: true, denyOut: list, allowOut: list }
  for (const [policy, ofThree] of [
    [few, 'denied'],
    [many, three],
  ] as const) {
    await fixture.slots.replacePolicy(0, openPolicy)
    fixture.slots.setPolicy(0, policy)
    expect(await probe(http(one), http(three))).toEqual([one, ofThree])
  }
  await fixture.slots.replacePolicy(0, openPolicy)
})
