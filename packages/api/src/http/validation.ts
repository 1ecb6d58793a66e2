import type { FastifySchemaCompiler } from 'fastify'
import type { TSchema } from 'typebox'
import { Compile } from 'typebox/compile'
import type { TLocalizedValidationError } from 'typebox/error'
import { Value } from 'typebox/value'
import type { ApiApp } from './app.ts'

const PARTS: Record<string, string> = {
  body: 'body',
  querystring: 'query',
  params: 'path',
  headers: 'headers',
}

function sentence(part: string, errors: readonly TLocalizedValidationError[]): string {
  const [error] = errors
  if (!error) return `Invalid request ${part}`
  const path = error.instancePath.slice(1).replaceAll('/', '.')
  const subject = path === '' ? `request ${part}` : `'${path}' in request ${part}`
  // Of a union every branch fails; all are said, so that the caller can pick one.
  const same = errors.filter(
    (other) => other.instancePath === error.instancePath && other.keyword !== 'anyOf',
  )
  return `Invalid ${subject}: ${[...new Set(same.map((other) => other.message))].join(' or ')}`
}

const badRequest = (message: string): Error => Object.assign(new Error(message), { statusCode: 400 })

/** Nothing has a NUL in its name, and PostgreSQL takes none in a text. */
const hasNul = (values: unknown): boolean =>
  Object.values(values ?? {}).some((value) => typeof value === 'string' && value.includes('\0'))

const compileValidator: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const validator = Compile(schema)
  const part = PARTS[httpPart ?? 'body'] ?? 'body'
  return (value: unknown) => {
    const converted = httpPart === 'body' ? value : Value.Convert(schema, value)
    if (!validator.Check(converted)) return { error: badRequest(sentence(part, validator.Errors(converted))) }
    if (httpPart === 'params' && hasNul(converted)) {
      return { error: badRequest(`Invalid request ${part}: must not contain NUL characters`) }
    }
    return { value: converted }
  }
}

const LONE_SURROGATE_ESCAPE = /\\u[dD][89a-fA-F]/

/** Half a character becomes U+FFFD: nothing that texts are handed to takes it. */
function wellFormed(value: unknown): unknown {
  if (typeof value === 'string') return value.toWellFormed()
  if (Array.isArray(value)) return value.map(wellFormed)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, member]) => [key.toWellFormed(), wellFormed(member)]),
  )
}

/** @throws SyntaxError no JSON, RangeError nested too deeply */
function parseJson(text: string): unknown {
  const parsed: unknown = JSON.parse(text)
  return LONE_SURROGATE_ESCAPE.test(text) ? wellFormed(parsed) : parsed
}

/** Validates requests by TypeBox schemas; bodies are JSON whatever their declared type, and may be absent. */
export function validateRequests(app: ApiApp): void {
  app.setValidatorCompiler(compileValidator)
  app.setSerializerCompiler(() => (value) => JSON.stringify(value))
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => {
    if (body === '') return done(null, undefined)
    try {
      done(null, parseJson(String(body)))
    } catch {
      done(badRequest('Invalid request body: not valid JSON'), undefined)
    }
  })
}
