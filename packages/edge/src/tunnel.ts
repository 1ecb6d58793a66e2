import { randomBytes } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { TLSSocket } from 'node:tls'
import type { Exchange } from './exchange.ts'
import { carryAnswer, type Destination, type Outcome, openRequest, superviseRequest } from './forward.ts'
import { requestHeaders } from './headers.ts'
import { pump } from './pump.ts'

/** A request to change the protocol of its connection (WebSocket and the like). */
export interface Upgrade {
  /** Value of the Upgrade header towards the service. */
  readonly protocol: string
  /** Sends the client its acceptance; what it returns carries the tunnel. */
  accept(incoming: IncomingMessage): Duplex
}

/** Ends a side so that its peer sees a failure. */
function cut(side: Duplex): void {
  if (side instanceof Socket && !(side instanceof TLSSocket)) side.resetAndDestroy()
  else side.destroy(new Error('the tunnel is reset'))
}

/** Joins two sides; an orderly end of one ends the other, a failure of one cuts the other. */
function join(client: Duplex, service: Duplex, closed: () => void): void {
  let open = 2
  for (const [side, other] of [
    [client, service],
    [service, client],
  ] as const) {
    side.on('error', () => {})
    pump(side, other, () => other.end())
    side.once('close', () => {
      if (side.errored || !side.readableEnded) cut(other)
      if (--open === 0) closed()
    })
  }
}

function tunnelHeaders(exchange: Exchange, to: Destination, upgrade: Upgrade): string[] {
  const headers = requestHeaders(exchange, to.host, false)
  headers.push('Connection', 'Upgrade', 'Upgrade', upgrade.protocol)
  // HTTP/2 clients have no key, the service of HTTP/1.1 wants one.
  if (upgrade.protocol === 'websocket' && exchange.header('sec-websocket-key') === undefined) {
    headers.push('Sec-WebSocket-Key', randomBytes(16).toString('base64'))
  }
  return headers
}

/** Undefined when the service's head cannot be expressed towards the client, or the client has just gone. */
function accepted(upgrade: Upgrade, incoming: IncomingMessage): Duplex | undefined {
  try {
    return upgrade.accept(incoming)
  } catch {
    return undefined
  }
}

/** Carries an upgrade to the service; when it agrees, bytes flow both ways until either side ends. */
export function tunnel(exchange: Exchange, to: Destination, upgrade: Upgrade): Promise<Outcome> {
  const outgoing = openRequest(exchange, to, 'GET', tunnelHeaders(exchange, to, upgrade))
  if (!outgoing) return Promise.resolve({ kind: 'malformed' })
  return new Promise((resolve) => {
    let joined = false
    const supervision = superviseRequest(
      exchange,
      to.upstream,
      outgoing,
      () => true,
      (outcome) => {
        if (!joined) resolve(outcome)
      },
    )
    outgoing.on('response', (incoming) => {
      if (supervision.done()) incoming.destroy()
      else carryAnswer(exchange, incoming)
    })
    outgoing.on('upgrade', (incoming, service, head) => {
      if (supervision.done()) return service.destroy()
      joined = true
      supervision.release()
      if (head.length > 0) service.unshift(head)
      const client = accepted(upgrade, incoming)
      if (!client) {
        service.destroy()
        exchange.reset()
        return resolve({ kind: 'gone' })
      }
      const release = to.upstream.track(() => {
        cut(client)
        cut(service)
      })
      join(client, service, () => {
        release()
        resolve({ kind: 'answered' })
      })
    })
    outgoing.end()
  })
}
