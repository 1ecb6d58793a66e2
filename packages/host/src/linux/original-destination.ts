import type { Socket } from 'node:net'
import { checked, libcFunction } from './libc.ts'

const SOL_IP = 0
const SO_ORIGINAL_DST = 80
const addressBytes = 16

const getsockoptCall = libcFunction('getsockopt', 'int', ['int', 'int', 'int', 'void *', 'void *'])

/** Where a redirected TCP connection was going before the firewall's translation. Throws SystemError. */
export function originalDestination(socket: Socket): { address: string; port: number } {
  const record = Buffer.alloc(addressBytes)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(addressBytes)
  checked(getsockoptCall(descriptorOf(socket), SOL_IP, SO_ORIGINAL_DST, record, length), 'getsockopt')
  return { address: record.subarray(4, 8).join('.'), port: record.readUInt16BE(2) }
}

/** Node has no public way from a socket to its descriptor. */
function descriptorOf(socket: Socket): number {
  const { _handle: handle } = socket as Socket & { _handle?: { fd?: number } | null }
  const fd = handle?.fd
  if (fd === undefined || fd < 0) throw new Error('the socket has no descriptor')
  return fd
}
