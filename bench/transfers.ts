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

/**
 * 100 MiB in and out of a sandbox, against `cat` through a pipe and against nginx in the place of the edge; and what a
 * process prints, against a pipe.
 */

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

export const MIB = 100
const BYTES = MIB * 2 ** 20
const ROUNDS = 4
const PATH = '/home/user/transfer'
const PRINTED_MIB = 32
const PRINTED_BYTES = PRINTED_MIB * 2 ** 20
const PRINTS = `yes 'a line of output' | head -c ${PRINTED_BYTES}`

/** The same random bytes for every way. */
export interface Cargo {
  readonly data: Buffer
  /** Through a pipe to a file of the host, and back. */
  readonly pipeIn: Way
  readonly pipeOut: Way
  upload(route: Route): Promise<void>
  download(route: Route): Promise<void>
}

/** Makes the bytes, and removes them and all connections when `use` has ended. */
export async function withCargo<T>(use: (cargo: Cargo) => Promise<T>): Promise<T> {
  const data = randomBytes(BYTES)
  const dir = mkdtempSync(join(tmpdir(), 'e2b-bench-transfer-'))
  const agents = { plain: new http.Agent({ keepAlive: true }), tls: new https.Agent({ keepAlive: true }) }
  try {
    const local = join(dir, 'data')
    writeFileSync(local, data)
    return await use({
      data,
      pipeIn: () => pipeIn(data, join(dir, 'copy')),
      pipeOut: () => pipeFrom('cat', [local], BYTES),
      upload: (route) => upload(agents, route, data),
      download: (route) => download(agents, route),
    })
  } finally {
    agents.plain.destroy()
    agents.tls.destroy()
    rmSync(dir, { recursive: true, force: true })
  }
}

export function measureTransfers(routes: TransferRoutes): Promise<Comparison[]> {
  return withCargo(async (cargo) => {
    const named = Object.entries(routesOf(routes))
    const uploads = named.map(([name, route]): [string, Way] => [name, () => cargo.upload(route)])
    const downloads = named.map(([name, route]): [string, Way] => [name, () => cargo.download(route)])
    const up = await sideBySide(ROUNDS, {
      '`cat` through a pipe to a file': cargo.pipeIn,
      ...Object.fromEntries(uploads),
      'official client over TLS': () => routes.sandbox.files.write(PATH, new Blob([cargo.data])),
    })
    const down = await sideBySide(ROUNDS, {
      '`cat` of a file through a pipe': cargo.pipeOut,
      ...Object.fromEntries(downloads),
      'official client over TLS': async () => {
        check((await routes.sandbox.files.read(PATH, { format: 'bytes' })).byteLength)
      },
    })
    const printed = await sideBySide(ROUNDS, {
      '`yes | head` through a pipe': () => pipeFrom('sh', ['-c', PRINTS], PRINTED_BYTES),
      'the same, run by the official client over TLS': async () => {
        check((await routes.sandbox.commands.run(PRINTS)).stdout.length, PRINTED_BYTES)
      },
    })
    return [
      { title: `${MIB} MiB up`, series: up, mib: MIB },
      { title: `${MIB} MiB down`, series: down, mib: MIB },
      { title: `${PRINTED_MIB} MiB printed`, series: printed, mib: PRINTED_MIB },
    ]
  })
}

const tokenHeaders = (accessToken: string | undefined): Record<string, string> =>
  accessToken === undefined ? {} : { 'X-Access-Token': accessToken }

/** To a sandbox's agent through the edge's TLS port. */
export const edgeRoute = (agentHost: string, httpsPort: number, accessToken: string | undefined): Route => ({
  isTls: true,
  host: agentHost,
  port: httpsPort,
  headers: tokenHeaders(accessToken),
})

function routesOf({ accessToken, sandbox, nginx, ...where }: TransferRoutes): Record<string, Route> {
  const token = tokenHeaders(accessToken)
  const local = { isTls: false, host: '127.0.0.1', headers: token }
  const ours = edgeRoute(where.agentHost, where.httpsPort, accessToken)
  const routed = { ...token, 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(ENVD_PORT) }
  return {
    'agent asked directly': { ...local, host: where.agentAddress, port: ENVD_PORT },
    ...(nginx && { 'nginx, plain': { ...local, port: nginx.port } }),
    'our edge, plain': { ...local, port: where.proxyPort, headers: routed },
    ...(nginx && { 'nginx, TLS': { ...ours, port: nginx.tlsPort } }),
    'our edge, TLS': ours,
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

async function pipeFrom(command: string, args: readonly string[], bytes: number): Promise<void> {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  check(await sizeOf(child.stdout!), bytes)
}

async function sizeOf(stream: AsyncIterable<Buffer>): Promise<number> {
  let bytes = 0
  for await (const chunk of stream) bytes += chunk.length
  return bytes
}

function check(bytes: number, expected = BYTES): void {
  if (bytes !== expected) throw new Error(`${bytes} of ${expected} bytes came`)
}
