import { hostname } from 'node:os'
import { type Client, createClient, createRouterTransport } from '@connectrpc/connect'
import { Host as HostService } from '@sandbox/contract/gen/host/host_pb'
import { createHost, type Host } from '@sandbox/host/host'
import { type HostOptions, hostOptionDefaults, type NeededSnapshots } from '@sandbox/host/options'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { Config } from './config.ts'
import { openInstalledEngines } from './engines/installed.ts'
import { installCommands } from './engines/installers.ts'
import { AGENT_VERSION, readRuntime, requireRuntime } from './runtime.ts'
import { readPublishedTemplates } from './tenancy.ts'

/** A host in this process, and the client that the control plane uses for it. */
export interface HostRole {
  readonly host: Host
  readonly id: string
  readonly client: Client<typeof HostService>
}

const MIB_PER_GIB = 1024
const POOL_IDLE_MS = 10 * 60_000
/** Processes and threads of one sandbox. */
const PIDS = 1024

export function hostOptions(config: Config, log: Logger, store?: Store): HostOptions {
  const runtime = requireRuntime(config)
  return {
    ...hostOptionDefaults,
    hostId: hostname(),
    instance: config.instance,
    stateDir: config.stateDir,
    imagesDir: config.imagesDir,
    runDir: config.runDir,
    isolation: config.isolation === 'auto' ? undefined : config.isolation,
    installCommands,
    addressRange: config.addressRange,
    uidBase: config.uidBase,
    maxSandboxes: config.maxSandboxes,
    slotsReady: config.slotsReady,
    uppersMib: config.uppersGib * MIB_PER_GIB,
    sandboxMbit: config.sandboxMbit,
    defaultLimits: { cpuCount: 2, memoryMib: 1024, diskMib: config.diskMib, pids: PIDS },
    pool: { min: config.poolMin, max: config.poolMax, idleMs: POOL_IDLE_MS },
    timeScale: config.timeScale,
    dnsUpstreams: config.dnsUpstreams.split(',').filter(Boolean),
    // This process's, and the one that the next will start with.
    agentLayers: () => [runtime, readRuntime(config) ?? runtime].map(({ agentLayer }) => agentLayer.digest),
    ...(store ? { neededSnapshots: () => neededSnapshots(config, store) } : {}),
    agentVersion: AGENT_VERSION,
    log: log.child({ role: 'host' }),
  }
}

async function neededSnapshots(config: Config, store: Store): Promise<NeededSnapshots> {
  const published = readPublishedTemplates(config).map(({ snapshotId }) => snapshotId)
  return { published, own: await store.templateBuilds.listTaggedSnapshots() }
}

/**
 * Opens the host of this machine and starts it: what runs is adopted, what nobody knows is removed.
 * @param store of its control plane, where that is in this process: what no name leads to is deleted only then
 */
export async function openHostRole(
  config: Config,
  log: Logger,
  { store, mayServeNothing = false }: { store?: Store; mayServeNothing?: boolean } = {},
): Promise<HostRole> {
  const runtime = requireRuntime(config)
  const options = { ...hostOptions(config, log, store), mayServeNothing }
  const host = await createHost(options, (parts) => openInstalledEngines(config, runtime, parts))
  await host.start()
  const transport = createRouterTransport((router) => host.routes(router))
  return { host, id: options.hostId, client: createClient(HostService, transport) }
}
