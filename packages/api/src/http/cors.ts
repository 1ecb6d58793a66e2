import type { ApiApp } from './app.ts'

/** What scripts of pages may send: keys, and what the official clients add of themselves. */
const ALLOWED_HEADERS = [
  ...['Content-Type', 'User-Agent', 'Authorization', 'X-API-Key', 'X-Team-ID', 'Idempotency-Key'],
  ...['browser', 'lang', 'lang_version', 'machine', 'os', 'package_version', 'processor', 'publisher'],
  ...['release', 'sdk_runtime', 'system'],
].join(',')
/** What they may read besides the body. */
const EXPOSED_HEADERS = [
  ...['X-Next-Token', 'X-Total-Running', 'X-E2B-Trace-ID', 'Should-Retry', 'Retry-After'],
  ...['RateLimit-Limit', 'RateLimit-Remaining', 'RateLimit-Reset'],
].join(',')
const METHODS = 'GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS'
const MAX_AGE_SEC = 43_200

/** Lets pages of every origin call the API: who calls is shown by a key, never by a cookie. */
export function allowOtherOrigins(app: ApiApp): void {
  app.addHook('onRequest', async (request, reply) => {
    if (request.headers.origin === undefined) return
    reply.header('Access-Control-Allow-Origin', '*').header('Access-Control-Expose-Headers', EXPOSED_HEADERS)
    const isPreflight =
      request.method === 'OPTIONS' && request.headers['access-control-request-method'] !== undefined
    if (!isPreflight) return
    return reply
      .code(204)
      .header('Access-Control-Allow-Methods', METHODS)
      .header('Access-Control-Allow-Headers', ALLOWED_HEADERS)
      .header('Access-Control-Max-Age', String(MAX_AGE_SEC))
      .send()
  })
}
