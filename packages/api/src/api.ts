import type { ServiceImpl } from '@connectrpc/connect'
import swagger, { type FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import type { Directory } from '@sandbox/contract/gen/directory/directory_pb'
import { kernelRandomBytes } from '@sandbox/contract/ids'
import { Type } from 'typebox'
import { ApiKeyCache } from './auth/api-key-cache.ts'
import { requireApiKey, requireOperator } from './auth/authenticate.ts'
import { SandboxTokens } from './auth/tokens.ts'
import { createDirectory } from './directory.ts'
import type { ApiApp } from './http/app.ts'
import { createHttpApp } from './http/create-app.ts'
import { limitRates } from './http/rate-limits.ts'
import { LogCollector } from './observing/log-collector.ts'
import { MetricsSampler } from './observing/metrics-sampler.ts'
import { Retention } from './observing/retention.ts'
import { SandboxLogs } from './observing/sandbox-logs.ts'
import { TeamMetrics } from './observing/team-metrics.ts'
import type { ApiOptions } from './options.ts'
import { adminRoutes } from './routes/admin.ts'
import { apiKeyRoutes } from './routes/api-keys.ts'
import { captureRoutes } from './routes/captures.ts'
import { networkRoutes } from './routes/network.ts'
import { nodeRoutes } from './routes/nodes.ts'
import { observationRoutes } from './routes/observations.ts'
import { sandboxListRoutes } from './routes/sandbox-lists.ts'
import { sandboxRoutes } from './routes/sandboxes.ts'
import { tagViewRoutes } from './routes/tag-views.ts'
import { teamRoutes } from './routes/teams.ts'
import { templateDetailRoutes } from './routes/template-details.ts'
import { templateTagRoutes } from './routes/template-tags.ts'
import { templateRoutes } from './routes/templates.ts'
import { transitionRoutes } from './routes/transitions.ts'
import { Answers } from './sandboxes/answers.ts'
import { AutoResume } from './sandboxes/auto-resume.ts'
import { Captures } from './sandboxes/capturing.ts'
import { Entries, runningFromRow } from './sandboxes/entries.ts'
import { Forks } from './sandboxes/forking.ts'
import { HostReports } from './sandboxes/host-reports.ts'
import { Hosts } from './sandboxes/hosts.ts'
import { Idempotency } from './sandboxes/idempotency.ts'
import { Launcher } from './sandboxes/launching.ts'
import { Lifecycle } from './sandboxes/lifecycle.ts'
import { NetworkUpdates } from './sandboxes/network-updates.ts'
import { Pauses } from './sandboxes/pausing.ts'
import { Resumes } from './sandboxes/resuming.ts'
import { RunningSandboxes } from './sandboxes/running.ts'
import { Snapshots } from './sandboxes/snapshots.ts'
import { Starter } from './sandboxes/starting.ts'
import { TemplateResolver } from './templates/resolver.ts'

const SEED_BYTES = 32
const START_TIMEOUT_MS = 60_000
const FIRST_COMPARISON_MS = 2_000
const OBSERVATIONS_KEPT_MS = 7 * 24 * 3600_000

/** The control plane. */
export interface Api {
  /** Listen with `app.listen`, or hand requests to `app.routing`. */
  readonly app: ApiApp
  /** Implementation of the Directory service, for a Connect router. */
  readonly directory: ServiceImpl<typeof Directory>
  /** Stops answering and following hosts. Sandboxes go on; the store stays open. */
  close(): Promise<void>
}

const OPENAPI: NonNullable<FastifyDynamicSwaggerOptions['openapi']> = {
  openapi: '3.1.0',
  info: {
    title: 'Sandbox API',
    version: '0.1.0',
    description: 'Control plane of self-hosted sandboxes, compatible with the E2B clients.',
  },
  components: {
    securitySchemes: {
      ApiKeyAuth: { type: 'apiKey', in: 'header', name: 'X-API-KEY' },
      AdminApiKeyAuth: { type: 'apiKey', in: 'header', name: 'X-Admin-Token' },
      AdminTeamAuth: { type: 'apiKey', in: 'header', name: 'X-Team-ID' },
    },
  },
  security: [{ ApiKeyAuth: [] }, { AdminApiKeyAuth: [], AdminTeamAuth: [] }],
}

/**
 * Assembles the control plane and brings store and hosts into agreement. The caller owns store and hosts.
 * @throws when the store cannot be read
 */
export async function createApi(options: ApiOptions): Promise<Api> {
  const { store, logger } = options
  const startTimeoutMs = options.startTimeoutMs ?? START_TIMEOUT_MS
  const candidate = kernelRandomBytes(SEED_BYTES).toString('hex')
  const seed = options.tokenSeed ?? (await store.serverSecrets.getOrCreate('token-seed', candidate))
  const tokens = new SandboxTokens(seed)
  const answers = new Answers(tokens, options.sandboxDomain ?? null)
  const running = new RunningSandboxes()
  const hosts = new Hosts(options.hosts, logger)
  for (const { id } of hosts.endpoints) {
    for (const row of await store.sandboxes.listRunning(id)) running.add(runningFromRow(row))
  }

  const templates = new TemplateResolver(store)
  const idempotency = new Idempotency(store, startTimeoutMs, logger)
  const features = {
    egressProxy: true,
    networkRules: true,
    volumes: false,
    iam: false,
    ...options.features,
  }
  const logs = new SandboxLogs(store, logger)
  const starter = new Starter(hosts, logger, startTimeoutMs)
  const entries = new Entries(store, running, hosts, options.limits)
  const shared = { store, running, entries, starter, tokens, templates, answers, logs, logger }
  const launcher = new Launcher(shared)
  const pauses = new Pauses(shared)
  const captures = new Captures(shared)
  const forks = new Forks({ ...shared, captures, launcher })
  const snapshots = new Snapshots({
    ...shared,
    hosts,
    captures,
    maxSnapshots: options.limits.maxSnapshots,
  })
  const resumes = new Resumes(shared)
  const lifecycle = new Lifecycle({ ...shared, launcher, resumes, idempotency, features })
  const sampler = new MetricsSampler(hosts.endpoints, store, logger)
  const teamMetrics = new TeamMetrics(running, store, logger)
  const app = createHttpApp(logger)
  if (options.openapi) await app.register(swagger, { openapi: OPENAPI })
  app.get(
    '/health',
    { schema: { tags: ['health'], security: [], response: { 200: Type.String() } } },
    async (_request, reply) =>
      reply.type('text/plain; charset=utf-8').serializer(String).send('Health check successful'),
  )
  await app.register(async (scope) => {
    const authenticated = scope.withTypeProvider<TypeBoxTypeProvider>()
    const keys = new ApiKeyCache(store, logger)
    authenticated.addHook('onRequest', requireApiKey({ keys, store, adminToken: options.adminToken }))
    authenticated.addHook('onRequest', limitRates(options.rateLimits ?? {}))
    sandboxRoutes(authenticated, { lifecycle, answers, running, store })
    captureRoutes(authenticated, { forks, snapshots })
    transitionRoutes(authenticated, { lifecycle, pauses })
    networkRoutes(authenticated, new NetworkUpdates({ store, entries, features, logger }))
    sandboxListRoutes(authenticated, { store, answers, running, templates })
    templateRoutes(authenticated, { store, templates })
    templateDetailRoutes(authenticated, { store, templates, hosts })
    tagViewRoutes(authenticated, { store, templates })
    templateTagRoutes(authenticated, { store, templates })
    observationRoutes(authenticated, { store, sampler, logs })
    apiKeyRoutes(authenticated, store)
    teamRoutes(authenticated, teamMetrics)
  })
  await app.register(async (scope) => {
    const operators = scope.withTypeProvider<TypeBoxTypeProvider>()
    operators.addHook('onRequest', requireOperator(options.adminToken))
    nodeRoutes(operators, hosts)
    adminRoutes(operators, { store, running, lifecycle })
  })
  await app.ready()

  const orphanGraceMs = options.orphanGraceMs ?? 0
  const reports = hosts.endpoints.map(
    (host) => new HostReports(host, { ...shared, pauses, resumes, captures, orphanGraceMs }),
  )
  await Promise.all([hosts.start(), ...reports.map((report) => report.start(FIRST_COMPARISON_MS))])

  const collectors = hosts.endpoints.map((host) => new LogCollector(host, shared))
  for (const collector of collectors) collector.start()
  const retention = new Retention(store, options.observationsKeptMs ?? OBSERVATIONS_KEPT_MS, logger)
  retention.start()
  sampler.start()
  teamMetrics.start()
  return {
    app,
    directory: createDirectory(running, new AutoResume({ ...shared, resumes }), tokens),
    async close() {
      sampler.stop()
      teamMetrics.stop()
      hosts.stop()
      idempotency.close()
      await app.close()
      await Promise.all([...reports, ...collectors].map((follower) => follower.stop()))
      await retention.stop()
      await logs.close()
    },
  }
}
