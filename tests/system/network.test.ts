import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ALL_TRAFFIC, type CommandExitError, Sandbox, type SandboxOpts } from 'e2b'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { openTestInternet, type TestInternet } from '../../packages/host/src/network/testing/test-internet.ts'
import { apiRequest, useTestServer } from './harness/clients.ts'
import { createTestServer, type TestServer } from './harness/server.ts'

/** An internet of our own behind the machine, on the addresses that E2B's own tests use. */
const cloudflare = '1.1.1.1'
const google = '8.8.8.8'
const quad9 = '9.9.9.9'
/** Not the one of the server that other tests share. */
const range = '10.138.0'
const inner = '10.98.7.6'
const names = {
  'one.example': [cloudflare],
  'two.example': [quad9],
  'sub.two.example': [quad9],
  'inner.example': [inner],
}

let server: TestServer
let internet: TestInternet
let sandbox: Sandbox | undefined
const internetCa = join(tmpdir(), 'tst8-internet.pem')

beforeAll(async () => {
  const addresses = [cloudflare, google, quad9, inner]
  internet = await openTestInternet({ name: 'tst8net', link: '203.0.113', addresses, names })
  writeFileSync(internetCa, internet.cert)
  server = createTestServer(8, {
    E2B_POOL_MAX: '0',
    NODE_EXTRA_CA_CERTS: internetCa,
    E2B_DNS_UPSTREAMS: google,
    E2B_ADDRESS_RANGE: `${range}.0/24`,
  })
  await server.start()
  useTestServer(server.clientEnv)
})
afterEach(async () => {
  await sandbox?.kill()
  sandbox = undefined
})
afterAll(async () => {
  await server.dispose()
  await internet.close()
  rmSync(internetCa)
})

async function create(options: SandboxOpts = {}): Promise<Sandbox> {
  sandbox = await Sandbox.create('base', { timeoutMs: 120_000, ...options })
  return sandbox
}

/** What each command got, at once: the address that answered, or `denied`. */
async function reach(from: Sandbox, ...urls: string[]): Promise<string[]> {
  return Promise.all(
    urls.map(async (url) => {
      try {
        const { stdout } = await from.commands.run(`curl -sk --connect-timeout 3 --max-time 5 ${url}`)
        return (JSON.parse(stdout) as { at: string }).at
      } catch (error) {
        if ((error as CommandExitError).exitCode === undefined) throw error
        return 'denied'
      }
    }),
  )
}

describe('egress', () => {
  it('is open to the internet and to nothing else', async () => {
    const from = await create()
    const other = await Sandbox.create('base', { timeoutMs: 60_000 })
    await other.commands.run('python3 -m http.server 8000 --bind 0.0.0.0', { background: true })
    expect(await reach(from, `https://${cloudflare}`, 'http://two.example', 'https://one.example')).toEqual([
      cloudflare,
      quad9,
      cloudflare,
    ])
    const { apiPort, proxyPort } = server.config
    const closed = [
      ...[apiPort, proxyPort, 22, 10_053, 10_054].map((port) => `http://${range}.1:${port}`),
      ...[2, 3, 4, 5].map((last) => `http://${range}.${last}:8000`),
      ...[2, 3, 4, 5].map((last) => `http://${range}.${last}:49983/health`),
      `http://${inner}`,
      'http://inner.example',
      'http://169.254.169.254',
      `http://169.254.0.22:${apiPort}`,
      `http://203.0.113.1:${apiPort}`,
      'http://[::1]:22',
      'http://[fe80::1%25eth0]:22',
    ]
    expect(await reach(from, ...closed)).toEqual(closed.map(() => 'denied'))
    await other.kill()
  })

  it('is closed without internet access', async () => {
    const from = await create({ allowInternetAccess: false })
    expect(await reach(from, `https://${cloudflare}`, 'http://two.example')).toEqual(['denied', 'denied'])
  })

  it('keeps to lists of addresses; allowing beats denying', async () => {
    const from = await create({ network: { denyOut: [ALL_TRAFFIC], allowOut: [`${google}/32`] } })
    expect(await reach(from, `https://${google}`, `https://${cloudflare}`)).toEqual([google, 'denied'])
    expect((await from.getInfo()).network).toMatchObject({ allowOut: [`${google}/32`] })
  })

  it('keeps to names, also when the sandbox lies about them', async () => {
    const from = await create({
      network: { denyOut: [ALL_TRAFFIC], allowOut: ['*.two.example', 'One.example'] },
    })
    const urls = [
      'https://one.example',
      'http://sub.two.example',
      'https://two.example',
      `https://${cloudflare}`,
    ]
    expect(await reach(from, ...urls)).toEqual([cloudflare, quad9, 'denied', 'denied'])
    await from.commands.run(`echo ${google} one.example >> /etc/hosts`, { user: 'root' })
    expect(await reach(from, 'https://one.example')).toEqual([cloudflare])
  })

  it('changes at once, and the change outlives the server and a pause', async () => {
    const from = await create()
    const urls = [`https://${google}`, `https://${cloudflare}`]
    expect(await reach(from, ...urls)).toEqual([google, cloudflare])
    await from.updateNetwork({ denyOut: [google] })
    expect(await reach(from, ...urls)).toEqual(['denied', cloudflare])
    await server.kill()
    await server.start()
    expect(await reach(from, ...urls)).toEqual(['denied', cloudflare])
    await from.pause()
    const resumed = await Sandbox.connect(from.sandboxId)
    expect(await reach(resumed, ...urls)).toEqual(['denied', cloudflare])
    await resumed.updateNetwork({})
    expect(await reach(resumed, ...urls)).toEqual([google, cloudflare])
  })

  it('goes through a SOCKS5 proxy, whose password is not shown', async () => {
    const before = internet.lines.length
    const egressProxy = { address: `${google}:1080`, username: 'user', password: 'secret' }
    const from = await create({ network: { egressProxy } })
    expect(await reach(from, `https://${cloudflare}`)).toEqual([cloudflare])
    expect(internet.lines.slice(before)).toContain(`socks ${cloudflare}:443`)
    expect(JSON.stringify((await from.getInfo()).network)).not.toContain('secret')
  })

  it('sets the headers of rules on HTTPS requests, which the sandbox trusts', async () => {
    const rules = (value: string) => ({ 'one.example': [{ transform: { headers: { 'X-Key': value } } }] })
    const from = await create({ network: { rules: rules('first') } })
    const key = async (): Promise<unknown> => {
      const { stdout } = await from.commands.run('curl -s -m 5 https://one.example')
      return (JSON.parse(stdout) as { headers: Record<string, string> }).headers['x-key']
    }
    expect(await key()).toBe('first')
    await from.updateNetwork({ rules: rules('second') })
    expect(await key()).toBe('second')
    await from.updateNetwork({})
    expect(await reach(from, 'https://one.example', 'https://two.example')).toEqual([cloudflare, quad9])
  })

  it.each([
    ['curl over HTTP/2', 'curl -sf --http2 -m 5 https://one.example'],
    [
      'Python with authorities of its own',
      `python3 -c "from pip._vendor import requests; print(requests.get('https://one.example').text)"`,
    ],
    ['node', `node -e "fetch('https://one.example').then((r) => r.text()).then(console.log)"`],
  ])('sets them for %s', async (_what, command) => {
    const rules = { 'one.example': [{ transform: { headers: { 'X-Key': 'secret' } } }] }
    const from = await create({ network: { rules } })
    const { stdout } = await from.commands.run(command)
    expect((JSON.parse(stdout) as { headers: Record<string, string> }).headers['x-key']).toBe('secret')
  })

  it('sets them for Java', async () => {
    const rules = { 'one.example': [{ transform: { headers: { 'X-Key': 'secret' } } }] }
    sandbox = await Sandbox.create('code-interpreter-v1', { timeoutMs: 120_000, network: { rules } })
    const source = `import java.net.URI; import java.net.http.*;
class Get { public static void main(String[] a) throws Exception { System.out.println(HttpClient.newHttpClient()
.send(HttpRequest.newBuilder(URI.create("https://one.example")).build(), HttpResponse.BodyHandlers.ofString()).body()); } }`
    await sandbox.files.write('/home/user/Get.java', source)
    const { stdout } = await sandbox.commands.run('java Get.java', { timeoutMs: 60_000 })
    expect((JSON.parse(stdout) as { headers: Record<string, string> }).headers['x-key']).toBe('secret')
  })

  it('refuses settings that cannot be', async () => {
    const from = await create()
    const put = (body: object): Promise<Response> =>
      apiRequest(`/sandboxes/${from.sandboxId}/network`, { method: 'PUT', body: JSON.stringify(body) })
    expect((await put({ denyOut: ['one.example'] })).status).toBe(400)
    expect((await put({ allowOut: ['one.example'] })).status).toBe(400)
    expect((await put({ denyOut: [ALL_TRAFFIC] })).status).toBe(204)
    const gone = await apiRequest('/sandboxes/nosuchsandbox/network', { method: 'PUT', body: '{}' })
    expect(gone.status).toBe(404)
  })
})
