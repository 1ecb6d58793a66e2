import { join } from 'node:path'
import { createClient, createRouterTransport } from '@connectrpc/connect'
import { type Api, createApi } from '@sandbox/api/api'
import { parseRateLimits, type RateLimits } from '@sandbox/api/http/rate-limits'
import { Directory } from '@sandbox/contract/gen/directory/directory_pb'
import { createEdge, type Edge } from '@sandbox/edge/edge'
import { ensureLocalCa } from '@sandbox/edge/local-ca'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import { type Config, ConfigError } from '../config.ts'
import { type HostRole, openHostRole } from '../host-role.ts'
import { openLog } from '../log.ts'
import { ensureOperator, openConfiguredStore, registerPublishedTemplates } from '../tenancy.ts'

const DAY_MS = 24 * 3600_000

/** Every role in one process, with what ends them in order. */
interface Server {
  readonly host: HostRole
  readonly api: Api
  readonly edge: Edge
  readonly store: Store
}

function readRateLimits(config: Config): RateLimits {
  try {
    return parseRateLimits(config.rateLimits)
  } catch (error) {
    throw new ConfigError(`E2B_RATE_LIMITS (--rate-limits): ${(error as Error).message}`)
  }
}

async function openEdge(config: Config, api: Api, log: Logger): Promise<Edge> {
  const ca = await ensureLocalCa({
    dir: join(config.stateDir, 'tls'),
    domain: config.domain,
    ...(config.caBundle ? { systemBundle: config.caBundle } : {}),
  })
  const transport = createRouterTransport((router) => router.service(Directory, api.directory))
  const edge = await createEdge({
    domain: config.domain,
    apiUrl: `http://127.0.0.1:${config.apiPort}`,
    directory: createClient(Directory, transport),
    tls: { host: config.bind, port: config.httpsPort, ...ca.server },
    http: { host: '127.0.0.1', port: config.proxyPort },
    ...(config.sandboxConnections > 0 ? { maxPerSandbox: config.sandboxConnections } : {}),
    log: log.child({ role: 'edge' }),
  })
  await edge.listen()
  return edge
}

async function openServer(config: Config, log: Logger): Promise<Server> {
  const store = await openConfiguredStore(config)
  const operator = await ensureOperator(store, config)
  const templates = await registerPublishedTemplates(store, config, operator)
  if (templates.length === 0) {
    throw new ConfigError("No template is built yet: run 'npm run quickstart' first.")
  }
  const host = await openHostRole(config, log, { store })
  const api = await createApi({
    store,
    hosts: [host],
    rateLimits: readRateLimits(config),
    limits: {
      maxSandboxes: config.teamSandboxes,
      maxHours: config.teamMaxHours,
      maxSnapshots: config.teamSnapshots,
    },
    logger: log.child({ role: 'api' }),
    observationsKeptMs: config.observationDays * DAY_MS,
    ...(config.adminToken ? { adminToken: config.adminToken } : {}),
  })
  await api.app.listen({ host: '127.0.0.1', port: config.apiPort })
  const edge = await openEdge(config, api, log)
  return { host, api, edge, store }
}

async function closeServer(server: Server, config: Config): Promise<void> {
  await server.edge.close()
  await server.api.close()
  await server.host.host.close({ keepSandboxes: config.onShutdown === 'keep' })
  await server.store.close()
}

/** Runs until SIGTERM or SIGINT. Prints one line once everything answers. */
export async function up(config: Config): Promise<void> {
  const log = openLog(config.logLevel)
  const beganMs = performance.now()
  const server = await openServer(config, log)
  const tookMs = Math.round(performance.now() - beganMs)
  process.stdout.write(
    `Ready in ${tookMs} ms: https://api.${config.domain} (API), ` +
      `https://{port}-{id}.${config.domain} (sandboxes), ` +
      `http://127.0.0.1:${config.apiPort} and :${config.proxyPort} (plain)\n`,
  )
  let closing = false
  const end = (signal: NodeJS.Signals): void => {
    if (closing) return
    closing = true
    log.info({ event: 'server.close', signal, sandboxes: config.onShutdown })
    closeServer(server, config).then(
      () => process.exit(0),
      (error: unknown) => {
        log.error({ event: 'server.close', err: error })
        process.exit(1)
      },
    )
  }
  process.on('SIGTERM', end)
  process.on('SIGINT', end)
}
