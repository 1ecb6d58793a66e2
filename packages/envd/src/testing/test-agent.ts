import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createClient, type Transport } from '@connectrpc/connect'
import { createConnectTransport } from '@connectrpc/connect-node'
import { Filesystem } from '@sandbox/contract/gen/filesystem/filesystem_pb'
import { Process } from '@sandbox/contract/gen/process/process_pb'
import { startAgent } from '../agent.ts'
import { compile } from '../layer/build.ts'

/** A real agent on a free port, with its own users and system files below a temporary directory. */
export async function startTestAgent(options: { token?: string; eventsPort?: number } = {}) {
  const rootDir = mkdtempSync(join(tmpdir(), 'envd-'))
  const nativeDir = join(rootDir, 'native')
  const home = join(rootDir, 'home/user')
  mkdirSync(nativeDir)
  mkdirSync(join(rootDir, 'etc'))
  mkdirSync(home, { recursive: true })
  chmodSync(rootDir, 0o755)
  chownSync(home, 1000, 1000)
  writeFileSync(
    join(rootDir, 'etc/passwd'),
    `root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::${home}:/bin/bash\n`,
  )
  writeFileSync(join(rootDir, 'etc/group'), 'root:x:0:\nuser:x:1000:\nextra:x:2000:user\n')
  await compile('launch', join(nativeDir, 'launch'))
  await compile('watch', join(nativeDir, 'watch'))
  const agent = await startAgent({
    port: 0,
    host: '127.0.0.1',
    nativeDir,
    rootDir,
    path: '/usr/local/bin:/usr/bin:/bin',
    defaultUser: 'root',
    ...(options.eventsPort === undefined ? {} : { eventsPort: options.eventsPort }),
  })
  const baseUrl = `http://127.0.0.1:${agent.port}`
  const transport = createConnectTransport({ baseUrl, httpVersion: '1.1', useBinaryFormat: false })
  const post = (path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(baseUrl + path, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'Content-Type': 'application/json', ...headers },
    })
  if (options.token) await post('/init', { accessToken: options.token })
  return {
    rootDir,
    home,
    baseUrl,
    post,
    ...clients(transport),
    http2Clients: () =>
      clients(createConnectTransport({ baseUrl, httpVersion: '2', useBinaryFormat: false })),
    close: async () => {
      await agent.close()
      rmSync(rootDir, { recursive: true, force: true })
    },
  }
}

export type TestAgent = Awaited<ReturnType<typeof startTestAgent>>

function clients(transport: Transport) {
  return { processes: createClient(Process, transport), files: createClient(Filesystem, transport) }
}

/** Header that makes an RPC act as `user`. */
export function actingAs(user: string): { headers: Record<string, string> } {
  return { headers: { Authorization: `Basic ${Buffer.from(`${user}:`).toString('base64')}` } }
}
