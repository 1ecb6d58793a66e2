import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { connect, constants, type IncomingHttpHeaders } from 'node:http2'
import { request as httpsRequest } from 'node:https'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { ENVD_PORT } from '../../../packages/contract/src/ports.ts'
import { apiRequest } from './clients.ts'

/** Requests to a sandbox's agent through the edge as bytes, at the pace of the test. */

interface WireRequest {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Readable
}

/** The head of an answer; its body is not read before the test reads it. */
export interface WireAnswer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Readable
  /** Leaves, as a client that was closed. */
  close(): void
}

/** Resolves with the head of the answer. */
export type Wire = (request: WireRequest) => Promise<WireAnswer>

export interface WireSandbox {
  readonly sandboxId: string
  readonly http1: Wire
  readonly http2: Wire
}

/** Creates a sandbox and opens ways to its agent. */
export async function createWireSandbox(): Promise<WireSandbox> {
  const body = JSON.stringify({ templateID: 'base', timeout: 600 })
  const answer = await apiRequest('/v2/sandboxes', { method: 'POST', body })
  if (answer.status !== 201) throw new Error(`${answer.status}: ${await answer.text()}`)
  const { sandboxID, envdAccessToken } = (await answer.json()) as Record<string, string>
  const origin = `https://${ENVD_PORT}-${sandboxID}.${process.env.E2B_DOMAIN}`
  const headers = {
    'X-Access-Token': envdAccessToken!,
    Authorization: `Basic ${Buffer.from('user:').toString('base64')}`,
  }
  return { sandboxId: sandboxID!, http1: http1Wire(origin, headers), http2: http2Wire(origin, headers) }
}

const http1Wire =
  (origin: string, own: Record<string, string>): Wire =>
  async ({ method, path, headers, body }) => {
    const outgoing = httpsRequest(origin + path, { method, headers: { ...own, ...headers }, agent: false })
    const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>
    if (body) await Promise.all([pipeline(body, outgoing), answered])
    else outgoing.end()
    const [incoming] = await answered
    return {
      status: incoming.statusCode!,
      headers: incoming.headers,
      body: incoming,
      close: () => outgoing.destroy(),
    }
  }

const http2Wire =
  (origin: string, own: Record<string, string>): Wire =>
  async ({ method, path, headers, body }) => {
    const session = connect(origin)
    const stream = session.request({ ':method': method, ':path': path, ...own, ...headers })
    stream.once('close', () => session.close())
    const answered = once(stream, 'response') as Promise<[IncomingHttpHeaders & { ':status'?: number }]>
    if (body) for await (const chunk of body) if (!stream.write(chunk)) await once(stream, 'drain')
    stream.end()
    const [head] = await answered
    return {
      status: head[':status']!,
      headers: head,
      body: stream,
      close: () => {
        stream.close(constants.NGHTTP2_CANCEL)
        session.destroy()
      },
    }
  }

const FRAME_HEAD_BYTES = 5
const LAST_FRAME_FLAG = 0x02

/** One JSON message as Connect's streams carry it. */
function frame(message: unknown): Buffer {
  const json = Buffer.from(JSON.stringify(message))
  const head = Buffer.alloc(FRAME_HEAD_BYTES)
  head.writeUInt32BE(json.length, 1)
  return Buffer.concat([head, json])
}

/** Calls a streaming method of the agent's process service. */
export const callProcess = (wire: Wire, method: 'Start' | 'Connect', message: unknown): Promise<WireAnswer> =>
  wire({
    method: 'POST',
    path: `/process.Process/${method}`,
    headers: { 'Content-Type': 'application/connect+json' },
    body: Readable.from([frame(message)]),
  })

/** An event of a process, as JSON has it: bytes in base64. */
export interface WireEvent {
  readonly start?: { readonly pid: number }
  readonly data?: { readonly stdout?: string }
  readonly end?: { readonly status: string }
}

/** The events in the body of such an answer, read as they are asked for. */
export async function* processEvents(body: AsyncIterable<Buffer>): AsyncGenerator<WireEvent> {
  let rest: Buffer = Buffer.alloc(0)
  for await (const chunk of body) {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    let at = 0
    while (rest.length - at >= FRAME_HEAD_BYTES) {
      const endsAt = at + FRAME_HEAD_BYTES + rest.readUInt32BE(at + 1)
      if (rest.length < endsAt) break
      const isLast = (rest[at]! & LAST_FRAME_FLAG) !== 0
      const message = JSON.parse(rest.toString('utf8', at + FRAME_HEAD_BYTES, endsAt))
      at = endsAt
      if (!isLast) yield message.event
      else if (message.error) throw new Error(JSON.stringify(message.error))
    }
    rest = rest.subarray(at)
  }
}
