import { mkdtemp, rm } from 'node:fs/promises'
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type RequestListener,
  type RequestOptions,
  type Server,
} from 'node:http'
import { type ClientHttp2Session, type ClientHttp2Stream, connect as connectHttp2 } from 'node:http2'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Code, ConnectError, createClient, createRouterTransport } from '@connectrpc/connect'
import { Directory, type FindRequest } from '@sandbox/contract/gen/directory/directory_pb'
import { createEdge, type Edge, type EdgeOptions } from './edge.ts'
import { ensureLocalCa, type LocalCa } from './local-ca.ts'

/** What the tests say about a sandbox. */
export interface TestRoute {
  address: string
  trafficAccessToken?: string
  maskRequestHost?: string
  httpsPorts?: number[]
}

/** A directory whose routes and stream of changes the tests write. */
export class TestDirectory {
  readonly routes = new Map<string, TestRoute>()
  finds = 0
  /** The questions, in order. */
  readonly asked: FindRequest[] = []
  /** Answers of Find wait for this. */
  gate: Promise<void> = Promise.resolve()
  refusal: ConnectError | undefined
  readonly #watchers = new Set<(change: { sandboxId: string; present: boolean } | undefined) => void>()

  readonly client = createClient(
    Directory,
    createRouterTransport(({ service }) => {
      service(Directory, {
        find: async (request) => {
          const { sandboxId } = request
          this.asked.push(request)
          this.finds++
          const route = this.routes.get(sandboxId)
          await this.gate
          if (this.refusal) throw this.refusal
          if (!route) throw new ConnectError('no such sandbox', Code.NotFound)
          return { sandboxId, ...route }
        },
        watch: (_request, context) => this.#follow(context.signal),
      })
    }),
  )

  /** Answers of Find are held back until the returned function is called. */
  hold(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.gate = promise
    return resolve
  }

  async *#follow(signal: AbortSignal) {
    const queue: ({ sandboxId: string; present: boolean } | undefined)[] = [{ sandboxId: '', present: true }]
    let wake = (): void => {}
    const push = (change: { sandboxId: string; present: boolean } | undefined): void => {
      queue.push(change)
      wake()
    }
    signal.addEventListener('abort', () => push(undefined))
    this.#watchers.add(push)
    try {
      for (;;) {
        while (queue.length === 0) {
          await new Promise<void>((resolve) => {
            wake = resolve
          })
        }
        const change = queue.shift()
        if (!change) return
        yield change
      }
    } finally {
      this.#watchers.delete(push)
    }
  }

  /** Number of edges that follow. */
  get watching(): number {
    return this.#watchers.size
  }

  announce(sandboxId: string, present: boolean): void {
    for (const push of this.#watchers) push({ sandboxId, present })
  }

  /** The sandbox ends: no route any more, and everybody is told. */
  kill(sandboxId: string): void {
    this.routes.delete(sandboxId)
    this.announce(sandboxId, false)
  }

  /** Ends every stream of changes, as a restart of the control plane does. */
  dropWatchers(): void {
    for (const push of this.#watchers) push(undefined)
  }
}

/** An edge on loopback with a directory, and servers in the role of sandboxes. */
export class Testbed {
  static readonly domain = 'e2b.localhost'
  readonly directory = new TestDirectory()
  readonly #closers: (() => Promise<unknown> | unknown)[] = []
  edge!: Edge
  ca!: LocalCa
  tlsPort = 0
  httpPort = 0

  static async start(
    api?: RequestListener,
    options: Pick<EdgeOptions, 'maxPerSandbox' | 'connectionTimes'> = {},
  ): Promise<Testbed> {
    const bed = new Testbed()
    const dir = await mkdtemp(join(tmpdir(), 'edge-'))
    bed.ca = await ensureLocalCa({ dir, domain: Testbed.domain })
    await rm(dir, { recursive: true })
    const apiPort = api ? await bed.serve(createServer(api)) : 1
    bed.edge = await createEdge({
      ...options,
      domain: Testbed.domain,
      apiUrl: `http://127.0.0.1:${apiPort}`,
      directory: bed.directory.client,
      tls: { host: '127.0.0.1', port: 0, ...bed.ca.server },
      http: { host: '127.0.0.1', port: 0 },
    })
    const ports = await bed.edge.listen()
    bed.tlsPort = ports.tlsPort ?? 0
    bed.httpPort = ports.httpPort ?? 0
    bed.#closers.push(() => bed.edge.close())
    return bed
  }

  /** Listens on a free loopback port until `stop`. */
  async serve(server: Server): Promise<number> {
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    this.#closers.push(() => {
      server.closeAllConnections()
      server.close()
    })
    return (server.address() as AddressInfo).port
  }

  /** A running sandbox with one service; returns the service's port. */
  async sandbox(
    sandboxId: string,
    listener: RequestListener,
    route: Partial<TestRoute> = {},
  ): Promise<number> {
    this.directory.routes.set(sandboxId, { address: '127.0.0.1', ...route })
    return this.serve(createServer(listener))
  }

  /** An HTTP/2 connection to the edge. */
  http2(): ClientHttp2Session {
    const session = connectHttp2(`https://127.0.0.1:${this.tlsPort}`, {
      ca: this.ca.caCertPem,
      settings: { enablePush: false },
    })
    session.on('error', () => {})
    this.#closers.push(() => session.destroy())
    return session
  }

  async stop(): Promise<void> {
    for (const close of this.#closers.reverse()) await close()
  }
}

export const publicHost = (port: number, sandboxId: string): string =>
  `${port}-${sandboxId}.${Testbed.domain}`

/** What a client of HTTP/2 asks for a WebSocket with: an extended CONNECT. */
export const connectWebSocket = (session: ClientHttp2Session, authority: string): ClientHttp2Stream =>
  session.request({
    ':method': 'CONNECT',
    ':protocol': 'websocket',
    ':path': '/',
    ':authority': authority,
    'sec-websocket-version': '13',
  })

/** Status, headers and whole body of an HTTP/2 stream; rejects when it is reset. */
export async function readHttp2(stream: ClientHttp2Stream) {
  let headers: Record<string, string | string[] | number | undefined> = {}
  const chunks: Buffer[] = []
  stream.once('response', (received) => {
    headers = { ...received }
  })
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  await new Promise<void>((resolve, reject) => {
    stream.once('end', () => resolve())
    stream.once('error', reject)
    stream.once('close', () => reject(new Error(`closed with ${stream.rstCode}`)))
  })
  return { status: Number(headers[':status']), headers, body: Buffer.concat(chunks).toString() }
}

/** One HTTP/1.1 request to the plain listener; rejects when the connection breaks. */
export async function plain(
  bed: Testbed,
  host: string,
  options: RequestOptions & { body?: string | Buffer } = {},
) {
  const { body, headers, ...rest } = options
  const outgoing = httpRequest({
    host: '127.0.0.1',
    port: bed.httpPort,
    ...rest,
    headers: { Host: host, ...(headers as Record<string, string>) },
  })
  outgoing.end(body)
  const incoming = await new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve)
    outgoing.once('error', reject)
  })
  const chunks: Buffer[] = []
  for await (const chunk of incoming) chunks.push(chunk as Buffer)
  return {
    status: incoming.statusCode,
    headers: incoming.headers,
    trailers: incoming.trailers,
    body: Buffer.concat(chunks).toString(),
  }
}
