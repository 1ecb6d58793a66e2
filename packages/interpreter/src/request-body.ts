/** Bodies of the service's requests: read within a bound, checked field by field. */
import type { IncomingMessage } from 'node:http'

/** The request cannot be served as it is; `status` and message go to the caller. */
export class RequestError extends Error {
  override readonly name = 'RequestError'
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

export interface ExecuteBody {
  code: string
  contextId: string | undefined
  language: string | undefined
  env: Record<string, string>
}

export interface CreateContextBody {
  cwd: string | undefined
  language: string | undefined
}

const MAX_BODY_BYTES = 256 * 1024 * 1024

export async function readExecuteBody(request: IncomingMessage): Promise<ExecuteBody> {
  const fields = await readFields(request)
  const code = fields.code
  if (typeof code !== 'string') throw new RequestError(422, 'code must be a string')
  return {
    code,
    contextId: optionalString(fields, 'context_id'),
    language: optionalString(fields, 'language'),
    env: optionalVariables(fields, 'env_vars'),
  }
}

export async function readCreateContextBody(request: IncomingMessage): Promise<CreateContextBody> {
  const fields = await readFields(request)
  return { cwd: optionalString(fields, 'cwd'), language: optionalString(fields, 'language') }
}

async function readFields(request: IncomingMessage): Promise<Record<string, unknown>> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) continue
    size += chunk.length
    if (size > MAX_BODY_BYTES) throw new RequestError(413, `The body is larger than ${MAX_BODY_BYTES} bytes`)
    chunks.push(chunk)
  }
  if (size === 0) return {}
  let body: unknown
  try {
    body = JSON.parse(Buffer.concat(chunks).toString('utf8'))
  } catch {
    throw new RequestError(422, 'The body is not JSON')
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new RequestError(422, 'The body must be a JSON object')
  }
  return { ...body }
}

/** Undefined for an absent, null or empty field. */
function optionalString(fields: Record<string, unknown>, name: string): string | undefined {
  const value = fields[name]
  if (value === undefined || value === null || value === '') return undefined
  if (typeof value !== 'string') throw new RequestError(422, `${name} must be a string`)
  return value
}

function optionalVariables(fields: Record<string, unknown>, name: string): Record<string, string> {
  const value = fields[name]
  if (value === undefined || value === null) return {}
  if (typeof value !== 'object' || Array.isArray(value))
    throw new RequestError(422, `${name} must be an object of strings`)
  return Object.fromEntries(
    Object.entries(value).map(([key, text]) => {
      if (typeof text !== 'string') throw new RequestError(422, `${name}.${key} must be a string`)
      return [key, text]
    }),
  )
}
