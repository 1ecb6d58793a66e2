/** Jupyter's messages on the wire: signed parts behind a delimiter. */
import { createHmac } from 'node:crypto'

export interface KernelMessage {
  type: string
  /** ISO 8601 time at which the kernel made the message. */
  date: string
  /** Id of the request that this message answers; undefined for what the kernel tells unasked. */
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

const DELIMITER = Buffer.from('<IDS|MSG>')
const EMPTY = Buffer.from('{}')
/** Offsets from the delimiter. */
const HEADER = 2
const PARENT = 3
const CONTENT = 5

/** The parts of an `execute_request`, signed with `key` (empty: unsigned). */
export function encodeExecuteRequest(request: ExecuteRequest, key: string): Buffer[] {
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
  const signed = [Buffer.from(JSON.stringify(header)), EMPTY, EMPTY, Buffer.from(JSON.stringify(content))]
  return [DELIMITER, Buffer.from(sign(signed, key)), ...signed]
}

function sign(parts: readonly Buffer[], key: string): string {
  if (key === '') return ''
  const hmac = createHmac('sha256', key)
  for (const part of parts) hmac.update(part)
  return hmac.digest('hex')
}

/**
 * Reads a kernel's message. Its signature is not looked at: only the sandbox's user, whose code the kernel runs
 * anyway, can reach its sockets. Throws a RangeError or SyntaxError when it is no message of Jupyter.
 */
export function decodeKernelMessage(parts: readonly Buffer[]): KernelMessage {
  const start = parts.findIndex((part) => part.equals(DELIMITER))
  const text = (offset: number): string => {
    const part = parts[start + offset]
    if (start < 0 || part === undefined) throw new RangeError('not a message of Jupyter')
    return part.toString('utf8')
  }
  const header: { msg_type: string; date?: string } = JSON.parse(text(HEADER))
  const parent: { msg_id?: string } = JSON.parse(text(PARENT))
  const content = text(CONTENT)
  return {
    type: header.msg_type,
    date: header.date ?? new Date().toISOString(),
    parentId: parent.msg_id,
    content: header.msg_type === 'stream' ? JSON.parse(content) : parseExactly(content),
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
