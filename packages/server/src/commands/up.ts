import { join } from 'node:path'
import { createClient, createRouterTransport } from '@connectrpc/connect'
import { type Api, createApi } from '@sandbox/api/api'
import { parseRateLimits, type RateLimits } from '@sandbox/api/http/rate-limits'
import { Directory } from '@sandbox/contract/gen/directory/directory_pb'
import { createEdge, type Edge } from '@sandbox/edge/edge'
import { ensureLocalCa, type LocalCa } from '@sandbox/edge/local-ca'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import { type Config, ConfigError } from '../config.ts'
import { type HostRole, openHostRole } from '../host-role.ts'
import { openLog } from '../log.ts'
import { ensureOperator, openConfiguredStore, registerPublishedTemplates } from '../tenancy.ts'

const DAY_MS = 24 * 3600_000

function readRateLimits(config: Config): RateLimits {
  try {
    return parseRateLimits(config.rateLimits)
  } catch (error) {
    throw new ConfigError(`E2B_RATE_LIMITS (--rate-limits): ${(error as Error).message}`)
  }
}

const openTls = (config: Config): Promise<LocalCa> =>
  ensureLocalCa({
    dir: join(config.stateDir, 'tls'),
    domain: config.domain,
    ...(config.caBundle ? { systemBundle: config.caBundle } : {}),
  })

function openApi(config: Config, store: Store, host: HostRole, log: Logger): Promise<Api> {
  return createApi({
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
}

function openEdge(config: Config, api: Api, ca: LocalCa, log: Logger): Promise<Edge> {
  const transport = createRouterTransport((router) => router.service(Directory, api.directory))
  return createEdge({
    domain: config.domain,
    apiUrl: `http://127.0.0.1:${config.apiPort}`,
    directory: createClient(Directory, transport),
    tls: { host: config.bind, port: config.httpsPort, ...ca.server },
    http: { host: '127.0.0.1', port: config.proxyPort },
    ...(config.sandboxConnections > 0 ? { maxPerSandbox: config.sandboxConnections } : {}),
    log: log.child({ role: 'edge' }),
  })
}

/**
 * Opens every role in this process; one that cannot be opened closes those before it.
 * @returns what closes them, the last one first
 */
async function openServer(config: Config, log: Logger): Promise<AsyncDisposableStack> {
  readRateLimits(config)
  await using opened = new AsyncDisposableStack()
  const store = await openConfiguredStore(config)
  opened.defer(() => store.close())
  const operator = await ensureOperator(store, config)
  const templates = await registerPublishedTemplates(store, config, operator)
  if (templates.length === 0) {
    throw new ConfigError("No template is built yet: run 'npm run quickstart' first.")
  }
  const ca = await openTls(config)
  const host = await openHostRole(config, log, { store })
  opened.defer(() => host.host.close({ keepSandboxes: config.onShutdown === 'keep' }))
  const api = await openApi(config, store, host, log)
  opened.defer(() => api.close())
  await api.app.listen({ host: '127.0.0.1', port: config.apiPort })
  const edge = await openEdge(config, api, ca, log)
  opened.defer(() => edge.close())
  await edge.listen()
  return opened.move()
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
    server.disposeAsync().then(
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
