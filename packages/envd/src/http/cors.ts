import { header, type NodeServerRequest, type NodeServerResponse, sendEmpty } from './exchange.ts'

const MAX_AGE_SECONDS = 7200
const EXPOSED = [
  'Grpc-Status',
  'Grpc-Message',
  'Grpc-Status-Details-Bin',
  'Location',
  'Cache-Control',
  'X-Content-Type-Options',
].join(', ')
const METHODS = new Set(['HEAD', 'GET', 'POST', 'PUT', 'PATCH', 'DELETE'])

/** Allows every origin and header. True when the request was a preflight and is answered. */
export function answerCors(request: NodeServerRequest, response: NodeServerResponse): boolean {
  const wanted = header(request, 'access-control-request-method')
  if (request.method === 'OPTIONS' && wanted) {
    response.setHeader('Vary', 'Origin, Access-Control-Request-Method, Access-Control-Request-Headers')
    if (header(request, 'origin') && METHODS.has(wanted.toUpperCase())) {
      response.setHeader('Access-Control-Allow-Origin', '*')
      response.setHeader('Access-Control-Allow-Methods', wanted.toUpperCase())
      const headers = header(request, 'access-control-request-headers')
      if (headers) response.setHeader('Access-Control-Allow-Headers', headers)
      response.setHeader('Access-Control-Max-Age', String(MAX_AGE_SECONDS))
    }
    sendEmpty(response, 204)
    return true
  }
  if (header(request, 'origin')) {
    response.setHeader('Access-Control-Allow-Origin', '*')
    response.setHeader('Access-Control-Expose-Headers', EXPOSED)
  }
  return false
}
