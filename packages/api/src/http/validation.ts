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

const compileValidator: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  const validator = Compile(schema)
  const part = PARTS[httpPart ?? 'body'] ?? 'body'
  return (value: unknown) => {
    const converted = httpPart === 'body' ? value : Value.Convert(schema, value)
    if (validator.Check(converted)) return { value: converted }
    return {
      error: Object.assign(new Error(sentence(part, validator.Errors(converted))), { statusCode: 400 }),
    }
  }
}

/** Validates requests by TypeBox schemas; bodies are JSON whatever their declared type, and may be absent. */
export function validateRequests(app: ApiApp): void {
  app.setValidatorCompiler(compileValidator)
  app.setSerializerCompiler(() => (value) => JSON.stringify(value))
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => {
    if (body === '') return done(null, undefined)
    try {
      done(null, JSON.parse(String(body)))
    } catch {
      done(Object.assign(new Error('Invalid request body: not valid JSON'), { statusCode: 400 }), undefined)
    }
  })
}
