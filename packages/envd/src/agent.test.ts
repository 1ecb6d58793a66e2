import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Code, type ConnectError } from '@connectrpc/connect'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startTestAgent, type TestAgent } from './testing/test-agent.ts'

let agent: TestAgent

beforeAll(async () => {
  agent = await startTestAgent()
}, 60_000)

afterAll(() => agent.close())

const identity = {
  hostname: 'e2b.local',
  machineId: '0123456789abcdef0123456789abcdef',
  bootId: '11111111-2222-3333-4444-555555555555',
  generation: '66666666-7777-8888-9999-000000000000',
  sandboxId: 'isandbox',
  templateId: 'template',
  reseed: '00ff'.repeat(16),
}

const file = (path: string): string => readFileSync(join(agent.rootDir, path), 'utf8')
const withToken = { 'X-Access-Token': 'secret' }

test('init makes the sandbox its own', async () => {
  writeFileSync(join(agent.rootDir, 'etc/hosts'), '127.0.0.1 localhost\n10.0.0.1 kept\n127.0.1.1 before\n')
  const answer = await agent.post('/init', {
    ...identity,
    envVars: { MINE: 'yes' },
    timestamp: '2026-01-01T00:00:02.000Z',
    defaultUser: 'user',
    defaultWorkdir: '/tmp',
    maxProcesses: 500,
  })
  expect([answer.status, answer.headers.get('x-envd-version')]).toEqual([204, '0.6.13'])
  expect(file('etc/hostname')).toBe('e2b.local\n')
  expect(file('etc/hosts')).toBe('127.0.0.1 localhost\n10.0.0.1 kept\n127.0.1.1 e2b.local\n')
  expect(file('etc/machine-id')).toBe(`${identity.machineId}\n`)
  expect(file('run/e2b/boot_id')).toBe(`${identity.bootId}\n`)
  expect(file('run/e2b/.E2B_SANDBOX')).toBe('true')
  expect(file('run/e2b/.E2B_SANDBOX_ID')).toBe('isandbox')
  expect(JSON.parse(file('run/e2b/.generation'))).toEqual({ generation: identity.generation })
  expect(await (await fetch(`${agent.baseUrl}/envs`)).json()).toEqual({
    E2B_SANDBOX: 'true',
    E2B_SANDBOX_ID: 'isandbox',
    E2B_TEMPLATE_ID: 'template',
    MINE: 'yes',
  })
  const script = "echo $USER $MINE $PWD $(awk '/Max processes/ { print $3, $4 }' /proc/self/limits)"
  const run = agent.processes.start({ process: { cmd: '/bin/sh', args: ['-c', script] } })
  let output = ''
  for await (const { event } of run) {
    if (event?.event.case === 'data') output += String(event.event.value.output.value)
  }
  expect(Buffer.from(output.split(',').map(Number)).toString()).toBe('user yes /tmp 500 500\n')
})

test('init says where the host takes reports, as a variable, a file and a name', async () => {
  const timestamp = '2026-01-01T00:00:02.6Z'
  await agent.post('/init', { hostname: 'e2b.local', hyperloopIP: '192.0.2.9', timestamp })
  expect(file('etc/hosts')).toBe(
    '127.0.0.1 localhost\n10.0.0.1 kept\n127.0.1.1 e2b.local\n192.0.2.9 events.e2b.local\n',
  )
  await agent.post('/init', { hyperloopIP: '192.0.2.1', timestamp: '2026-01-01T00:00:02.7Z' })
  expect(file('etc/hosts')).toBe(
    '127.0.0.1 localhost\n10.0.0.1 kept\n127.0.1.1 e2b.local\n192.0.2.1 events.e2b.local\n',
  )
  expect(file('run/e2b/.E2B_EVENTS_ADDRESS')).toBe('http://192.0.2.1')
  const env = (await (await fetch(`${agent.baseUrl}/envs`)).json()) as Record<string, string>
  expect(env.E2B_EVENTS_ADDRESS).toBe('http://192.0.2.1')
  expect(
    (await agent.post('/init', { hyperloopIP: 'a b', timestamp: '2026-01-01T00:00:02.8Z' })).status,
  ).toBe(400)
})

test('the boot id stays the same file, because it is mounted elsewhere', async () => {
  const before = statSync(join(agent.rootDir, 'run/e2b/boot_id')).ino
  await agent.post('/init', { bootId: identity.bootId.replace('1', '9'), timestamp: '2026-01-01T00:00:03Z' })
  expect(file('run/e2b/boot_id')).toBe(`${identity.bootId.replace('1', '9')}\n`)
  expect(statSync(join(agent.rootDir, 'run/e2b/boot_id')).ino).toBe(before)
})

test('an older init changes nothing', async () => {
  const answer = await agent.post('/init', { envVars: { MINE: 'old' }, timestamp: '2026-01-01T00:00:01Z' })
  expect(answer.status).toBe(204)
  expect(await (await fetch(`${agent.baseUrl}/envs`)).json()).toMatchObject({ MINE: 'yes' })
})

test('malformed bodies are refused', async () => {
  expect((await agent.post('/init', { envVars: { A: 1 } })).status).toBe(400)
  expect((await agent.post('/init', [])).status).toBe(400)
  expect((await agent.post('/init', { timestamp: 'yesterday' })).status).toBe(400)
})

test('with a token everything but health needs it', async () => {
  await agent.post('/init', { accessToken: 'secret', timestamp: '2026-02-01T00:00:00Z' })
  expect((await fetch(`${agent.baseUrl}/health`)).status).toBe(204)
  for (const [path, init] of [
    ['/metrics', {}],
    ['/envs', {}],
    ['/files/compose', { method: 'POST' }],
    ['/process.Process/List', { method: 'POST', body: '{}' }],
  ] as const) {
    const answer = await fetch(agent.baseUrl + path, init)
    expect(await answer.json()).toEqual({
      code: 401,
      message: 'unauthorized access, please provide a valid access token or method signing if supported',
    })
    expect(answer.status).toBe(401)
  }
  expect((await fetch(`${agent.baseUrl}/envs`, { headers: withToken })).status).toBe(200)
  expect((await agent.post('/init', { accessToken: 'other' })).status).toBe(401)
  expect((await agent.post('/init', {})).status).toBe(401)
  expect((await agent.post('/start', { cmd: 'true' })).status).toBe(401)
  const same = await agent.post('/init', { accessToken: 'secret', timestamp: '2026-02-01T00:00:01Z' })
  expect(same.status).toBe(204)
})

test('what a proxy passes on never reaches the paths of the host', async () => {
  for (const path of ['/init', '/start', '/freeze', '/unfreeze']) {
    const answer = await agent.post(path, {}, { ...withToken, 'E2b-Sandbox-Id': 'isandbox' })
    expect(answer.status).toBe(404)
  }
})

test('metrics measure this machine', async () => {
  const answer = await fetch(`${agent.baseUrl}/metrics`, { headers: withToken })
  const metrics = (await answer.json()) as Record<string, number>
  expect(answer.headers.get('cache-control')).toBe('no-store')
  expect(Object.keys(metrics).sort()).toEqual([
    'cpu_count',
    'cpu_used_pct',
    'disk_total',
    'disk_used',
    'mem_cache',
    'mem_total',
    'mem_total_mib',
    'mem_used',
    'mem_used_mib',
    'ts',
  ])
  expect(metrics.mem_total).toBeGreaterThan(0)
  expect(metrics.disk_total).toBeGreaterThan(metrics.disk_used ?? 0)
})

test('browsers may call from anywhere', async () => {
  const preflight = await fetch(`${agent.baseUrl}/process.Process/List`, {
    method: 'OPTIONS',
    headers: {
      Origin: 'https://app.example',
      'Access-Control-Request-Method': 'POST',
      'Access-Control-Request-Headers': 'x-access-token',
    },
  })
  expect(preflight.status).toBe(204)
  expect(preflight.headers.get('access-control-allow-origin')).toBe('*')
  expect(preflight.headers.get('access-control-allow-headers')).toBe('x-access-token')
  expect(preflight.headers.get('access-control-max-age')).toBe('7200')
  const answer = await fetch(`${agent.baseUrl}/health`, { headers: { Origin: 'https://app.example' } })
  expect(answer.headers.get('access-control-expose-headers')).toContain('Grpc-Status')
})

test('start runs the command once, detached, and waits until it is ready', async () => {
  const marker = join(agent.rootDir, 'ready')
  const body = {
    cmd: `sleep 0.3; touch ${marker}; sleep 30`,
    readyCmd: `test -e ${marker}`,
    user: 'root',
    readyTimeoutMs: 10_000,
  }
  const answer = await agent.post('/start', body, withToken)
  const { pid, readyAfterMs } = (await answer.json()) as { pid: number; readyAfterMs: number }
  expect(answer.status).toBe(200)
  expect(readyAfterMs).toBeGreaterThan(250)
  const { processes } = await agent.processes.list({}, { headers: withToken })
  expect(processes.find((running) => running.pid === pid)?.tag).toBe('start_cmd')
  process.kill(pid, 'SIGKILL')
  const never = await agent.post(
    '/start',
    { readyCmd: 'false', user: 'root', readyTimeoutMs: 200 },
    withToken,
  )
  expect(never.status).toBe(504)
  const early = { cmd: 'exit 3', readyCmd: 'false', user: 'root' }
  expect((await agent.post('/start', early, withToken)).status).toBe(500)
})

test('the host may name an authority, which the bundle of the image then holds once', async () => {
  const certificate = '-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----'
  mkdirSync(join(agent.rootDir, 'etc/ssl/certs'), { recursive: true })
  writeFileSync(join(agent.rootDir, 'etc/ssl/certs/ca-certificates.crt'), 'others')
  for (let round = 0; round < 2; round++) {
    expect((await agent.post('/init/trust', { certificate }, withToken)).status).toBe(204)
    expect(file('etc/ssl/certs/ca-certificates.crt')).toBe(`others\n${certificate}\n`)
  }
  const envs = await (await fetch(`${agent.baseUrl}/envs`, { headers: withToken })).json()
  expect(envs).toMatchObject({
    REQUESTS_CA_BUNDLE: '/etc/ssl/certs/ca-certificates.crt',
    SSL_CERT_FILE: '/etc/ssl/certs/ca-certificates.crt',
    NODE_EXTRA_CA_CERTS: '/run/e2b/egress-ca.crt',
  })
  expect(file('run/e2b/egress-ca.crt')).toBe(`${certificate}\n`)
  expect((await agent.post('/init/trust', { certificate: 'x' }, withToken)).status).toBe(400)
})

test('what is not there is a Connect error for RPC paths', async () => {
  const error = await agent.processes.list({}).catch((reason: ConnectError) => reason)
  expect((error as ConnectError).code).toBe(Code.Unauthenticated)
  const method = await agent.post('/process.Process/Nothing', {}, withToken)
  expect(await method.json()).toMatchObject({ code: 'unimplemented' })
  expect((await agent.post('/nothing', {}, withToken)).status).toBe(404)
})
