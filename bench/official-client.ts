import { readFileSync } from 'node:fs'
import { getCACertificates, setDefaultCACertificates } from 'node:tls'
import { Sandbox } from '@e2b/code-interpreter'
import { ENVD_PORT } from '@sandbox/contract/ports'
import type { BenchServer } from './bench-server.ts'
import { TEMPLATE } from './template.ts'

/** From now on this process trusts the certificates of the server, as its users do. */
export function trustCertificatesOf({ server }: BenchServer): void {
  const bundle = server.clientEnv.NODE_EXTRA_CA_CERTS!
  setDefaultCACertificates([...getCACertificates('default'), readFileSync(bundle, 'utf8')])
}

/** How the official client reaches the server: over TLS, by host name. */
export const connectionTo = ({ server }: BenchServer): { apiKey: string; domain: string } => ({
  apiKey: server.clientEnv.E2B_API_KEY!,
  domain: server.clientEnv.E2B_DOMAIN!,
})

/** Name of a sandbox's agent on the edge's TLS port. */
export const agentHostOf = ({ server }: BenchServer, sandboxId: string): string =>
  `${ENVD_PORT}-${sandboxId}.${server.config.domain.split(':')[0]}`

export interface OfficialSandbox {
  readonly sandbox: Sandbox
  /** For raw requests: the client keeps it to itself. */
  readonly accessToken: string | undefined
}

/** Starts a sandbox of the default template that outlives the longest series. */
export async function createOfficial(bench: BenchServer): Promise<OfficialSandbox> {
  const { id, accessToken } = await bench.client.create(TEMPLATE)
  const sandbox = await Sandbox.connect(id, { ...connectionTo(bench), timeoutMs: 900_000 })
  return { sandbox, accessToken }
}
