/**
 * The binary frames of the `v1.kernel.websocket.jupyter.org` subprotocol. Jupyter Server forwards them to and
 * from the kernel's sockets without parsing them, which the older JSON frames would cost on every message.
 *
 * Layout: count of offsets, the offsets (all uint64 little endian), then the parts they delimit: channel,
 * header, parent header, metadata, content, and any number of buffers.
 */

export const KERNEL_SUBPROTOCOL = 'v1.kernel.websocket.jupyter.org'

export interface KernelMessage {
  /** `shell`, `iopub`, `control` or `stdin`. */
  channel: string
  type: string
  /** ISO 8601 time at which the kernel made the message. */
  date: string
  /** Id of the request that this message answers; undefined for messages of Jupyter itself. */
  parentId: string | undefined
  content: Record<string, unknown>
}

export interface ExecuteRequest {
  id: string
  session: string
  code: string
  /** A silent request leaves execution count, history and `_` alone and publishes no result. */
  silent: boolean
}

const WORD = 8
const CHANNEL = 0
const HEADER = 1
const PARENT = 2
const CONTENT = 4
const MIN_OFFSETS = 6
const MAX_OFFSETS = 1024

/** Encodes an `execute_request` for the shell channel. */
export function encodeExecuteRequest(request: ExecuteRequest): Buffer {
  const header = {
    msg_id: request.id,
    msg_type: 'execute_request',
    username: 'user',
    session: request.session,
    date: new Date().toISOString(),
    version: '5.3',
  }
  const content = {
    code: request.code,
    silent: request.silent,
    store_history: !request.silent,
    user_expressions: {},
    allow_stdin: false,
    stop_on_error: false,
  }
  const parts = ['shell', JSON.stringify(header), '{}', '{}', JSON.stringify(content)].map((part) =>
    Buffer.from(part),
  )
  const table = Buffer.alloc(WORD * (parts.length + 2))
  table.writeBigUInt64LE(BigInt(parts.length + 1), 0)
  let offset = table.length
  for (const [index, part] of parts.entries()) {
    table.writeBigUInt64LE(BigInt(offset), WORD * (index + 1))
    offset += part.length
  }
  table.writeBigUInt64LE(BigInt(offset), WORD * (parts.length + 1))
  return Buffer.concat([table, ...parts])
}

/** Decodes one frame. Throws a RangeError or SyntaxError when it is not one. */
export function decodeKernelMessage(frame: Buffer): KernelMessage {
  const count = Number(frame.readBigUInt64LE(0))
  if (count < MIN_OFFSETS || count > MAX_OFFSETS) throw new RangeError(`kernel frame has ${count} offsets`)
  const part = (index: number): string => {
    const start = Number(frame.readBigUInt64LE(WORD * (index + 1)))
    const end = Number(frame.readBigUInt64LE(WORD * (index + 2)))
    return frame.toString('utf8', start, end)
  }
  const header: { msg_type: string; date?: string } = JSON.parse(part(HEADER))
  const parent: { msg_id?: string } = JSON.parse(part(PARENT))
  return {
    channel: part(CHANNEL),
    type: header.msg_type,
    date: header.date ?? new Date().toISOString(),
    parentId: parent.msg_id,
    content: parseExactly(part(CONTENT)),
  }
}

interface ExactJson {
  parse(text: string, revive: (key: string, value: unknown, context: { source?: string }) => unknown): unknown
  rawJSON(text: string): object
}

const exactJson = JSON as unknown as ExactJson

/** Numbers that JavaScript would write otherwise (1.0, 2e400, twenty digits) are kept as they are spelled. */
function parseExactly(text: string): Record<string, unknown> {
  const content = exactJson.parse(text, (_key, value, { source }) =>
    typeof value === 'number' && source !== undefined && source !== String(value)
      ? exactJson.rawJSON(source)
      : value,
  )
  return content as Record<string, unknown>
}
