/** Requests to the kernel's netfilter over netlink: a tenth of a millisecond instead of a process. */
import { closeSync } from 'node:fs'
import { checked, libcFunction, libcFunctionInBackground, SystemError } from './libc.ts'

const AF_NETLINK = 16
const SOCK_RAW_CLOEXEC = 3 | 0o2000000
const NETLINK_NETFILTER = 12
const SOL_SOCKET = 1
const SO_RCVTIMEO = 20
const SO_SNDBUFFORCE = 32
const NLMSG_ERROR = 2
const NLM_F_REQUEST = 1
const NLM_F_ACK = 4
const NLA_F_NESTED = 0x8000
const headerBytes = 16
const maxReplies = 64
const receiveTimeoutSec = 2
/** Room for a change of the longest lists in one message. */
const sendBufferBytes = 1024 * 1024

const socketCall = libcFunction('socket', 'int', ['int', 'int', 'int'])
const sendCall = libcFunction('send', 'long', ['int', 'void *', 'size_t', 'int'])
const sendInBackground = libcFunctionInBackground('send', 'long', ['int', 'void *', 'size_t', 'int'])
const recvCall = libcFunction('recv', 'long', ['int', 'void *', 'size_t', 'int'])
const setsockoptCall = libcFunction('setsockopt', 'int', ['int', 'int', 'int', 'void *', 'uint'])

export interface NetfilterMessage {
  /** Subsystem and message number: `subsystem << 8 | message`. */
  type: number
  flags?: number
  family: number
  resourceId?: number
  attributes?: Buffer
  acknowledge: boolean
}

/** One attribute; a list of attributes as value makes it a nested one. Text is sent NUL-terminated. */
export function attribute(type: number, value: Buffer | string | readonly Buffer[]): Buffer {
  const nested = Array.isArray(value)
  const body = nested
    ? Buffer.concat(value)
    : Buffer.from(typeof value === 'string' ? `${value}\0` : (value as Buffer))
  const record = Buffer.alloc(4 + Math.ceil(body.length / 4) * 4)
  record.writeUInt16LE(4 + body.length, 0)
  record.writeUInt16LE(nested ? type | NLA_F_NESTED : type, 2)
  body.copy(record, 4)
  return record
}

/** A number as netfilter wants it in attributes: 32 bits, network order. */
export function networkOrder32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/**
 * Sends messages as one datagram in the calling thread's network namespace and waits for every acknowledgement
 * asked for. Throws SystemError with the kernel's errno for the first message it refuses.
 */
export function netfilterRequest(messages: readonly NetfilterMessage[], what: string): void {
  const fd = openSocket()
  try {
    const datagram = Buffer.concat(messages.map(encode))
    checked(sendCall(fd, datagram, datagram.length, 0), 'send', what)
    receiveAcknowledgements(fd, messages.filter((message) => message.acknowledge).length, what)
  } finally {
    closeSync(fd)
  }
}

/**
 * The same for requests that the kernel takes its time over, without holding up this thread. They are done in the
 * network namespace that the thread has now. Throws as `netfilterRequest` does.
 */
export async function netfilterRequestInBackground(
  messages: readonly NetfilterMessage[],
  what: string,
): Promise<void> {
  const fd = openSocket()
  try {
    const datagram = Buffer.concat(messages.map(encode))
    // The kernel does the work within `send`, and answers before it returns.
    const sent = await sendInBackground(fd, datagram, datagram.length, 0)
    if (sent < 0) throw new Error(`${what}: the netlink message was not sent`)
    receiveAcknowledgements(fd, messages.filter((message) => message.acknowledge).length, what)
  } finally {
    closeSync(fd)
  }
}

function openSocket(): number {
  const fd = checked(socketCall(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_NETFILTER), 'socket', 'netlink')
  const timeout = Buffer.alloc(16)
  timeout.writeBigInt64LE(BigInt(receiveTimeoutSec), 0)
  checked(setsockoptCall(fd, SOL_SOCKET, SO_RCVTIMEO, timeout, timeout.length), 'setsockopt', 'netlink')
  const size = Buffer.alloc(4)
  size.writeInt32LE(sendBufferBytes)
  // Not granted everywhere; then only the longest lists are refused.
  setsockoptCall(fd, SOL_SOCKET, SO_SNDBUFFORCE, size, size.length)
  return fd
}

function encode(message: NetfilterMessage, index: number): Buffer {
  const attributes = message.attributes ?? Buffer.alloc(0)
  const record = Buffer.alloc(headerBytes + 4 + attributes.length)
  record.writeUInt32LE(record.length, 0)
  record.writeUInt16LE(message.type, 4)
  record.writeUInt16LE((message.flags ?? 0) | NLM_F_REQUEST | (message.acknowledge ? NLM_F_ACK : 0), 6)
  record.writeUInt32LE(index + 1, 8)
  record.writeUInt8(message.family, headerBytes)
  record.writeUInt16BE(message.resourceId ?? 0, headerBytes + 2)
  attributes.copy(record, headerBytes + 4)
  return record
}

function receiveAcknowledgements(fd: number, expected: number, what: string): void {
  const buffer = Buffer.alloc(16 * 1024)
  let acknowledged = 0
  for (let reply = 0; acknowledged < expected; reply++) {
    if (reply === maxReplies) throw new Error(`${what}: too many netlink replies`)
    const length = checked(recvCall(fd, buffer, buffer.length, 0), 'recv', what)
    for (let at = 0; at + headerBytes + 4 <= length; ) {
      const messageBytes = buffer.readUInt32LE(at)
      if (messageBytes < headerBytes) throw new Error(`${what}: malformed netlink reply`)
      if (buffer.readUInt16LE(at + 4) === NLMSG_ERROR) {
        const error = buffer.readInt32LE(at + headerBytes)
        if (error !== 0) throw new SystemError(-error, 'netlink', what)
        acknowledged++
      }
      at += Math.ceil(messageBytes / 4) * 4
    }
  }
}
