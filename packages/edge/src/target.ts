import { isIP } from 'node:net'

/** Where a request wants to go, read from its Host and its routing headers alone. */
export type Target =
  | { readonly kind: 'api' }
  | { readonly kind: 'sandbox'; readonly sandboxId: string; readonly port: number }
  | { readonly kind: 'refused'; readonly message: string }

const SANDBOX_ID = /^[a-z0-9]+$/
const refused = (message: string): Target => ({ kind: 'refused', message })

/** `host:port`, `[v6]:port` or a bare name, as the lower-case name without its port. */
export function hostName(authority: string): string {
  const host = authority.toLowerCase()
  if (host.startsWith('[')) return host.slice(1, host.indexOf(']') < 0 ? host.length : host.indexOf(']'))
  const colon = host.indexOf(':')
  // A bare IPv6 address has several colons and no port.
  if (colon < 0 || host.indexOf(':', colon + 1) >= 0) return host
  return host.slice(0, colon)
}

const isSharedHost = (host: string): boolean =>
  host === 'localhost' || isIP(host) !== 0 || (host.startsWith('sandbox.') && host.length > 'sandbox.'.length)

function parsePort(text: string): number | undefined {
  if (!/^[0-9]{1,5}$/.test(text)) return undefined
  const port = Number(text)
  return port >= 1 && port <= 65535 ? port : undefined
}

function sandboxTarget(portText: string, sandboxId: string): Target {
  const port = parsePort(portText)
  if (port === undefined) return refused('Invalid sandbox port')
  if (!SANDBOX_ID.test(sandboxId)) return refused('Invalid sandbox ID')
  return { kind: 'sandbox', sandboxId, port }
}

/**
 * `api.{domain}` is the API. A shared host (localhost, an address, `sandbox.…`) with routing headers goes by
 * these; every other host carries `{port}-{id}` or `{port}-{id}-{client}` in its first label.
 *
 * @param apiHost lower-case name of the API, without port
 * @param header reads a request header by its lower-case name
 */
export function readTarget(
  authority: string,
  apiHost: string,
  header: (name: string) => string | undefined,
): Target {
  const host = hostName(authority)
  if (host === apiHost) return { kind: 'api' }
  if (isSharedHost(host)) {
    const sandboxId = header('e2b-sandbox-id')
    const port = header('e2b-sandbox-port')
    if (sandboxId && port) return sandboxTarget(port, sandboxId)
    if (sandboxId || port) return refused('missing header')
  }
  const dot = host.indexOf('.')
  if (dot < 0) return refused('Invalid host')
  const [port, sandboxId] = host.slice(0, dot).split('-')
  if (port === undefined || sandboxId === undefined) return refused('Invalid host')
  return sandboxTarget(port, sandboxId)
}
