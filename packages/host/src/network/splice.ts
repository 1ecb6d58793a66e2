import type { Socket } from 'node:net'
import { TLSSocket } from 'node:tls'

/** How long a silent connection may stay before the kernel asks whether the other side is still there. */
const keepAliveAfterMs = 60_000

/**
 * Carries bytes both ways until both sides have ended, each at the pace of its receiver. An end travels as an end and
 * a reset as a reset. Both sockets must allow half-open connections.
 */
export function splice(a: Socket, b: Socket): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.setKeepAlive(true, keepAliveAfterMs)
    from.setNoDelay(true)
    from.pipe(to)
    from.on('error', () => reset(to))
    from.on('close', (hadError) => {
      // After an orderly end in both directions the other side still has to send what it holds.
      if (hadError || !from.readableEnded) reset(to)
    })
  }
}

/** The other side sees a reset, not an orderly end that could pass for the whole answer. */
export function reset(socket: Socket): void {
  if (socket instanceof TLSSocket) socket.destroy()
  else socket.resetAndDestroy()
}
