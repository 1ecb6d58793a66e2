/** Headers of requests that are passed on: what is of one connection only stays behind, what a rule sets replaces. */
import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http2'

/** Of one connection only, and not for the next server. */
const hopHeaders = new Set(['connection', 'keep-alive', 'proxy-connection', 'proxy-authorization'])
/** Of HTTP/1.1 alone: in HTTP/2 they make a message malformed. */
const http1Headers = new Set([...hopHeaders, 'transfer-encoding', 'upgrade', 'http2-settings'])

/** Whether a Host header or authority stands for `name`, with or without a port. */
export const isForHost = (authority: string | undefined, name: string): boolean =>
  authority?.toLowerCase().replace(/(\.)?(:\d+)?$/, '') === name

/** HTTP/1.1 headers as name and value in turn. */
export const withoutHops = (rawHeaders: readonly string[]): string[] =>
  headerPairs(rawHeaders)
    .filter(([name]) => !hopHeaders.has(name.toLowerCase()))
    .flat()

/** HTTP/1.1 headers with those of a rule instead of the request's own. */
export function withHeadersSet(
  rawHeaders: readonly string[],
  set: Readonly<Record<string, string>>,
): string[] {
  const replaced = lowerNames(set)
  const kept = headerPairs(withoutHops(rawHeaders)).filter(([name]) => !replaced.has(name.toLowerCase()))
  return [...kept, ...Object.entries(set)].flat()
}

export function headerPairs(rawHeaders: readonly string[]): [string, string][] {
  const result: [string, string][] = []
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    result.push([rawHeaders[at] ?? '', rawHeaders[at + 1] ?? ''])
  }
  return result
}

/** What an HTTP/2 message may carry of the headers of another one, pseudo headers left out. */
export function http2Headers(
  headers: IncomingHttpHeaders | NodeJS.Dict<string | string[]>,
): OutgoingHttpHeaders {
  return Object.fromEntries(
    Object.entries(headers).filter(([name]) => !name.startsWith(':') && !http1Headers.has(name)),
  )
}

/** The headers of an HTTP/2 request with those of a rule instead of its own; `host` is the authority's matter. */
export function withHttp2HeadersSet(
  headers: IncomingHttpHeaders,
  set: Readonly<Record<string, string>>,
): OutgoingHttpHeaders {
  const replaced = lowerNames(set)
  const kept = Object.entries(http2Headers(headers)).filter(
    ([name]) => name !== 'host' && name !== 'expect' && !replaced.has(name),
  )
  return Object.fromEntries([
    ...kept,
    ...Object.entries(set).map(([name, value]) => [name.toLowerCase(), value]),
  ])
}

const lowerNames = (set: Readonly<Record<string, string>>): Set<string> =>
  new Set(Object.keys(set).map((name) => name.toLowerCase()))
