import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs'
import * as http from 'node:http'
import * as https from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Sandbox } from '@e2b/code-interpreter'
import { ENVD_PORT } from '@sandbox/contract/ports'
import type { Nginx } from './nginx.ts'
import { type Comparison, sideBySide, type Way } from './side-by-side.ts'

/** 100 MiB in and out of a sandbox, against `cat` through a pipe and against nginx in the place of the edge. */

export interface TransferRoutes {
  readonly sandbox: Sandbox
  readonly accessToken: string | undefined
  /** Of the sandbox's slot. */
  readonly agentAddress: string
  readonly proxyPort: number
  readonly httpsPort: number
  /** Name of the sandbox's agent on the edge's TLS port. */
  readonly agentHost: string
  /** Where nginx stands in for the edge; left out if it is not installed. */
  readonly nginx: Nginx | undefined
}

interface Route {
  readonly isTls: boolean
  readonly host: string
  readonly port: number
  readonly headers: Record<string, string>
}

const MIB = 100
const BYTES = MIB * 2 ** 20
const ROUNDS = 4
const PATH = '/home/user/transfer'

export async function measureTransfers(routes: TransferRoutes): Promise<Comparison[]> {
  const data = randomBytes(BYTES)
  const dir = mkdtempSync(join(tmpdir(), 'e2b-bench-transfer-'))
  const plain = new http.Agent({ keepAlive: true })
  const tls = new https.Agent({ keepAlive: true })
  const agents = { plain, tls }
  try {
    const local = join(dir, 'data')
    writeFileSync(local, data)
    const named = Object.entries(routesOf(routes))
    const uploads = named.map(([name, route]): [string, Way] => [name, () => upload(agents, route, data)])
    const downloads = named.map(([name, route]): [string, Way] => [name, () => download(agents, route)])
    const up = await sideBySide(ROUNDS, {
      '`cat` through a pipe to a file': () => pipeIn(data, join(dir, 'copy')),
      ...Object.fromEntries(uploads),
      'official client over TLS': () => routes.sandbox.files.write(PATH, new Blob([data])),
    })
    const down = await sideBySide(ROUNDS, {
      '`cat` of a file through a pipe': () => pipeOut(local),
      ...Object.fromEntries(downloads),
      'official client over TLS': async () => {
        check((await routes.sandbox.files.read(PATH, { format: 'bytes' })).byteLength)
      },
    })
    return [
      { title: `${MIB} MiB up`, series: up, mib: MIB },
      { title: `${MIB} MiB down`, series: down, mib: MIB },
    ]
  } finally {
    plain.destroy()
    tls.destroy()
    rmSync(dir, { recursive: true, force: true })
  }
}

function routesOf({ accessToken, sandbox, nginx, ...where }: TransferRoutes): Record<string, Route> {
  const token: Record<string, string> = accessToken === undefined ? {} : { 'X-Access-Token': accessToken }
  const local = { isTls: false, host: '127.0.0.1', headers: token }
  const secure = { isTls: true, host: where.agentHost, headers: token }
  const routed = { ...token, 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(ENVD_PORT) }
  return {
    'agent asked directly': { ...local, host: where.agentAddress, port: ENVD_PORT },
    ...(nginx && { 'nginx, plain': { ...local, port: nginx.port } }),
    'our edge, plain': { ...local, port: where.proxyPort, headers: routed },
    ...(nginx && { 'nginx, TLS': { ...secure, port: nginx.tlsPort } }),
    'our edge, TLS': { ...secure, port: where.httpsPort },
  }
}

interface Agents {
  readonly plain: http.Agent
  readonly tls: https.Agent
}

function call(agents: Agents, route: Route, method: string): http.ClientRequest {
  const { host, port, headers } = route
  const path = `/files?path=${encodeURIComponent(PATH)}&username=user`
  const options = { method, host, port, path, headers }
  return route.isTls
    ? https.request({ ...options, agent: agents.tls })
    : http.request({ ...options, agent: agents.plain })
}

async function upload(agents: Agents, route: Route, data: Buffer): Promise<void> {
  const outgoing = call(agents, route, 'POST')
  outgoing.setHeader('content-type', 'application/octet-stream')
  outgoing.end(data)
  const [incoming] = (await once(outgoing, 'response')) as [http.IncomingMessage]
  let answer = ''
  for await (const chunk of incoming) answer += String(chunk)
  if (incoming.statusCode !== 200)
    throw new Error(`the upload was answered with ${incoming.statusCode}: ${answer}`)
}

async function download(agents: Agents, route: Route): Promise<void> {
  const outgoing = call(agents, route, 'GET')
  outgoing.end()
  const [incoming] = (await once(outgoing, 'response')) as [http.IncomingMessage]
  check(await sizeOf(incoming))
}

async function pipeIn(data: Buffer, path: string): Promise<void> {
  const file = openSync(path, 'w')
  const child = spawn('cat', { stdio: ['pipe', file, 'inherit'] })
  child.stdin!.end(data)
  await once(child, 'close')
  closeSync(file)
}

async function pipeOut(path: string): Promise<void> {
  const child = spawn('cat', [path], { stdio: ['ignore', 'pipe', 'inherit'] })
  check(await sizeOf(child.stdout!))
}

async function sizeOf(stream: AsyncIterable<Buffer>): Promise<number> {
  let bytes = 0
  for await (const chunk of stream) bytes += chunk.length
  return bytes
}

function check(bytes: number): void {
  if (bytes !== BYTES) throw new Error(`${bytes} of ${BYTES} bytes came`)
}
