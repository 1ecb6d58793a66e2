import type { connectNodeAdapter } from '@connectrpc/connect-node'

export type RequestHandler = ReturnType<typeof connectNodeAdapter>
export type NodeServerRequest = Parameters<RequestHandler>[0]
export type NodeServerResponse = Parameters<RequestHandler>[1]

/** One HTTP/1.1 or HTTP/2 request with its answer. */
export interface Exchange {
  readonly request: NodeServerRequest
  readonly response: NodeServerResponse
  readonly path: string
  readonly query: URLSearchParams
}

/** An answer to the client that is not success; the message is shown as it is. */
export class HttpError extends Error {
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.name = 'HttpError'
    this.status = status
  }
}

/** The value of a header that is sent once, undefined when absent. */
export function header(request: NodeServerRequest, name: string): string | undefined {
  const value = request.headers[name]
  return Array.isArray(value) ? value[0] : value
}

/** Sets status and headers; they go out with the first byte of the body or its end. */
export function setHead(
  response: NodeServerResponse,
  status: number,
  headers: Readonly<Record<string, string | number>> = {},
): void {
  response.statusCode = status
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value)
}

/** An answer without a body. */
export function sendEmpty(
  response: NodeServerResponse,
  status: number,
  headers: Readonly<Record<string, string | number>> = {},
): void {
  setHead(response, status, headers)
  response.end()
}

export function sendJson(
  response: NodeServerResponse,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  const bytes = Buffer.from(`${JSON.stringify(body)}\n`)
  setHead(response, status, {
    ...headers,
    'Content-Type': 'application/json',
    'Content-Length': bytes.length,
  })
  response.end(bytes)
}

/** The error body of every path that is not an RPC: `{code, message}`. */
export function sendError(response: NodeServerResponse, status: number, message: string): void {
  const bytes = Buffer.from(`${JSON.stringify({ code: status, message })}\n`)
  setHead(response, status, {
    'Content-Type': 'application/json; charset=utf-8',
    'X-Content-Type-Options': 'nosniff',
    'Content-Length': bytes.length,
  })
  response.end(bytes)
}

/** The request's body as chunks. Leaving the loop early keeps the connection, so that an answer can be sent. */
export function bodyChunks(request: NodeServerRequest): AsyncIterable<Buffer> {
  return request.iterator({ destroyOnReturn: false })
}

/** @throws HttpError 400 when the body is no JSON object, 413 when it is longer than `limitBytes` */
export async function readJson(
  request: NodeServerRequest,
  limitBytes: number,
): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of bodyChunks(request)) {
    size += chunk.length
    if (size > limitBytes) throw new HttpError(413, `the body is longer than ${limitBytes} bytes`)
    chunks.push(chunk)
  }
  if (size === 0) return {}
  let value: unknown
  try {
    value = JSON.parse(Buffer.concat(chunks).toString('utf8'))
  } catch (error) {
    throw new HttpError(400, `invalid request body: ${error instanceof Error ? error.message : error}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new HttpError(400, 'invalid request body: an object is expected')
  }
  return value as Record<string, unknown>
}

/** A string field, undefined when absent or null. @throws HttpError 400 */
export function stringField(body: Record<string, unknown>, name: string): string | undefined {
  const value = body[name]
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'string') throw new HttpError(400, `invalid request body: ${name} must be a string`)
  return value
}

/** A whole number above 0, undefined when absent or null. @throws HttpError 400 */
export function integerField(body: Record<string, unknown>, name: string): number | undefined {
  const value = body[name]
  if (value === undefined || value === null) return undefined
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1)
    throw new HttpError(400, `invalid request body: ${name} must be a whole number above 0`)
  return value
}

/** An object of strings, undefined when absent or null. @throws HttpError 400 */
export function stringMapField(
  body: Record<string, unknown>,
  name: string,
): Record<string, string> | undefined {
  const value = body[name]
  if (value === undefined || value === null) return undefined
  const entries = typeof value === 'object' ? Object.entries(value) : undefined
  if (!entries?.every((entry): entry is [string, string] => typeof entry[1] === 'string')) {
    throw new HttpError(400, `invalid request body: ${name} must map strings to strings`)
  }
  return Object.fromEntries(entries)
}
