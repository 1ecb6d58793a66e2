import { ENVD_PORT } from '@sandbox/contract/ports'
import type { Exchange } from './exchange.ts'
import { pathOnly } from './internal-paths.ts'

export const TRAFFIC_TOKEN_HEADER = 'e2b-traffic-access-token'

/** An answer that the edge gives itself. The order of the keys of `body` is the order on the wire. */
export interface Answer {
  readonly status: number
  /** Plain text for malformed requests, JSON (or a page, for a browser) otherwise. */
  readonly body: string | Readonly<Record<string, string | number>>
  readonly headers?: readonly string[]
}

/** Nothing was done, the same request may succeed a moment later. */
const REPEATABLE = ['Retry-After', '1', 'Should-Retry', 'true']

export const malformed = (message: string): Answer => ({ status: 400, body: `${message}\n` })

export const notFound = (sandboxId: string): Answer => ({
  status: 502,
  body: { sandboxId, message: 'The sandbox was not found', code: 502 },
})

export const portClosed = (sandboxId: string, port: number): Answer => ({
  status: 502,
  body: { sandboxId, message: 'The sandbox is running but port is not open', port, code: 502 },
})

export const refusedFor = (sandboxId: string, status: number, message: string): Answer => ({
  status,
  body: { sandboxId, message, code: status },
  ...(status === 429 || status === 503 ? { headers: REPEATABLE } : {}),
})

export const tooManyConnections = (sandboxId: string, connectionLimit: number): Answer => ({
  status: 429,
  body: {
    sandboxId,
    message: 'There are too many connections to the sandbox, close some of them or try again later',
    connectionLimit,
    code: 429,
  },
  headers: REPEATABLE,
})

export const tokenRefused = (sandboxId: string, given: boolean): Answer =>
  refusedFor(
    sandboxId,
    403,
    given
      ? `The traffic access token in header '${TRAFFIC_TOKEN_HEADER}' is not the one of this sandbox`
      : `This sandbox takes traffic only with its access token: header '${TRAFFIC_TOKEN_HEADER}' is missing`,
  )

export const internalPath = (path: string): Answer => ({
  status: 404,
  body: {
    message: `This path of port ${ENVD_PORT} is internal and cannot be reached through the address of a sandbox`,
    path: pathOnly(path),
    code: 404,
  },
})

export const apiUnreachable: Answer = {
  status: 503,
  body: { code: 503, message: 'The API is not reachable at the moment' },
  headers: REPEATABLE,
}

const BROWSER = /mozilla|chrome|safari|firefox|edge|opera|msie/i

/** A script's own request says so in a header that the script cannot change; it expects JSON, whatever it accepts. */
const isBrowserNavigation = (exchange: Exchange): boolean =>
  (exchange.header('sec-fetch-mode') ?? 'navigate') === 'navigate' &&
  BROWSER.test(exchange.header('user-agent') ?? '') &&
  (exchange.header('accept') ?? '').includes('text/html')

const escapeHtml = (text: string): string =>
  text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)

function page(status: number, body: Readonly<Record<string, string | number>>): string {
  const rows = Object.entries(body)
    .filter(([name]) => name !== 'message' && name !== 'code')
    .map(([name, value]) => `<dt>${escapeHtml(name)}</dt><dd>${escapeHtml(String(value))}</dd>`)
  const message = escapeHtml(String(body.message ?? ''))
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${status} ${message}</title>
<meta name="viewport" content="width=device-width"><style>
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:20vh auto;padding:0 1rem}
dt{opacity:.6}dd{margin:0 0 .5rem;font-family:ui-monospace,monospace}</style>
<h1>${message}</h1><dl>${rows.join('')}</dl></html>
`
}

function render(exchange: Exchange, answer: Answer): { type: string; text: string } {
  const { body } = answer
  if (typeof body === 'string') return { type: 'text/plain; charset=utf-8', text: body }
  if (isBrowserNavigation(exchange))
    return { type: 'text/html; charset=utf-8', text: page(answer.status, body) }
  return { type: 'application/json; charset=utf-8', text: JSON.stringify(body) }
}

const isPreflight = (exchange: Exchange): boolean =>
  exchange.method === 'OPTIONS' && exchange.header('access-control-request-method') !== undefined

function sendPreflight(exchange: Exchange): void {
  const asked = exchange.header('access-control-request-headers')
  const headers = ['Access-Control-Allow-Origin', '*', 'Access-Control-Allow-Methods', '*']
  if (asked) headers.push('Access-Control-Allow-Headers', asked)
  exchange.answer(204, 'No Content', headers, true)
  exchange.end([])
}

/** Sends an answer of the edge, readable from scripts of any origin. A body under way is not waited for. */
export function send(exchange: Exchange, answer: Answer): void {
  // Nobody else can answer the preflight here, and without one a browser hides the real answer.
  if (isPreflight(exchange)) {
    sendPreflight(exchange)
    return
  }
  const { type, text } = render(exchange, answer)
  const payload = Buffer.from(text)
  const headers = ['Content-Type', type, 'Content-Length', String(payload.length)]
  headers.push(
    'Access-Control-Allow-Origin',
    '*',
    'X-Content-Type-Options',
    'nosniff',
    ...(answer.headers ?? []),
  )
  const bodyless = exchange.method === 'HEAD'
  const sink = exchange.answer(answer.status, '', headers, bodyless)
  if (!bodyless) sink.write(payload)
  exchange.end([])
}
