import { readFileSync } from 'node:fs'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { inject } from 'vitest'

/** Points the official clients in this process at a server of tests. */
export function useTestServer(environment: Record<string, string>): void {
  Object.assign(process.env, environment)
  delete process.env.E2B_DEBUG
  const bundle = environment.NODE_EXTRA_CA_CERTS
  if (bundle) setDefaultCACertificates([...getCACertificates('default'), readFileSync(bundle, 'utf8')])
}

/** A plain request to the API, for what the clients hide. */
export function apiRequest(path: string, init: RequestInit & { key?: string } = {}): Promise<Response> {
  const { key = process.env.E2B_API_KEY!, ...rest } = init
  return fetch(`https://api.${process.env.E2B_DOMAIN}${path}`, {
    ...rest,
    headers: { 'X-API-KEY': key, 'content-type': 'application/json', ...rest.headers },
  })
}

const shared = inject('clientEnv')
if (shared) useTestServer(shared)
