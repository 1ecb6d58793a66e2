import type { Exchange } from './exchange.ts'

const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'transfer-encoding',
  'upgrade',
  'http2-settings',
])

/** Rewritten by the edge, or already answered by it. */
const REPLACED = new Set(['host', 'expect', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'])

/** Names that a Connection header binds to its own hop. */
function connectionTokens(raw: readonly string[]): ReadonlySet<string> | undefined {
  let tokens: Set<string> | undefined
  for (let at = 0; at + 1 < raw.length; at += 2) {
    if (raw[at]!.toLowerCase() !== 'connection') continue
    tokens ??= new Set()
    for (const token of raw[at + 1]!.split(',')) tokens.add(token.trim().toLowerCase())
  }
  return tokens
}

/** Methods whose empty body needs no Content-Length. */
const BODYLESS_METHODS = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE'])

/**
 * Headers of the request towards the service: end-to-end headers as they came, then Host, forwarding and
 * framing headers.
 *
 * @param host value of the Host header; the client's own authority goes to X-Forwarded-Host
 * @param hasBody false for an upgrade, whose bytes are no body
 */
export function requestHeaders(exchange: Exchange, host: string, hasBody = exchange.hasBody): string[] {
  const raw = exchange.rawHeaders
  const tokens = connectionTokens(raw)
  const headers: string[] = ['Host', host]
  let hasLength = false
  let forwardedFor = ''
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = raw[at]!.toLowerCase()
    if (name === 'x-forwarded-for') forwardedFor = `${raw[at + 1]!}, `
    if (name === 'te' && raw[at + 1]!.toLowerCase().includes('trailers')) headers.push('TE', 'trailers')
    if (HOP_BY_HOP.has(name) || REPLACED.has(name) || tokens?.has(name)) continue
    if (name === 'content-length') hasLength = true
    headers.push(raw[at]!, raw[at + 1]!)
  }
  headers.push('X-Forwarded-For', forwardedFor + exchange.remoteAddress)
  headers.push(
    'X-Forwarded-Host',
    exchange.authority,
    'X-Forwarded-Proto',
    exchange.secure ? 'https' : 'http',
  )
  if (!hasLength) {
    if (hasBody) headers.push('Transfer-Encoding', 'chunked')
    else if (!BODYLESS_METHODS.has(exchange.method)) headers.push('Content-Length', '0')
  }
  return headers
}

/** Headers of an answer without those of the hop behind the edge. */
export function endToEndHeaders(raw: readonly string[]): string[] {
  const tokens = connectionTokens(raw)
  const headers: string[] = []
  for (let at = 0; at + 1 < raw.length; at += 2) {
    const name = raw[at]!.toLowerCase()
    if (!HOP_BY_HOP.has(name) && !tokens?.has(name)) headers.push(raw[at]!, raw[at + 1]!)
  }
  return headers
}
