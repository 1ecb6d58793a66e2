import { join } from 'node:path'
import type { JournalEntry } from './cells/journal.ts'
import type { Engine } from './engines/engine.ts'
import { Engines, probeEach } from './engines/engines.ts'
import { CgroupRoot } from './linux/cgroup-root.ts'
import { DnsForwarder, type DnsUpstream, machineResolvers } from './network/dns.ts'
import { EgressAuthority } from './network/egress-authority.ts'
import { EgressProxyServer } from './network/egress-proxy.ts'
import { HeaderTransforms } from './network/header-transforms.ts'
import { NetworkSlots } from './network/network-slots.ts'
import type { Egress } from './network/policy.ts'
import type { HostOptions } from './options.ts'
import { lockInstance, prepareRunDir, removeRunDir } from './run-dir.ts'
import { SlotPool } from './slots/slot-pool.ts'
import { slotUidBase } from './slots/slots.ts'
import { LayerStore } from './storage/layers.ts'
import { UpperStore } from './storage/uppers.ts'

/** What an engine is made of. */
export interface EngineParts {
  runDir: string
  layers: LayerStore
  uppers: UpperStore
  cgroups: CgroupRoot
  /** First of 65,536 ids that belong to no slot. */
  spareUidBase: number
}

/** The installed engines, strongest first. */
export type OpenEngines = (parts: EngineParts) => Promise<readonly Engine[]>

/** The parts of the host that hold kernel objects, opened for one instance. */
export interface Machine {
  readonly engines: Engines
  readonly slots: SlotPool
  readonly uppers: UpperStore
  readonly layers: LayerStore
  /** PEM of the authority behind the certificates that sandboxes with rules meet. */
  readonly egressAuthorityPem: string
  /** Where the events listener is to listen, once this has started. */
  readonly eventsEndpoint: { address: string; port: number }
  /**
   * Keeps the slots and uppers that the journal or a snapshot names, removes all others of this instance, and makes the
   * first ready.
   */
  start(entries: readonly JournalEntry[], keptUpperIds: ReadonlySet<string>): Promise<void>
  /** Stops background work. With `destroy` nothing of this instance is left in the kernel; else what is used stays. */
  close(options: { destroy: boolean }): Promise<void>
}

/** @throws HostError exists, or unsupported with what the machine lacks */
export async function openMachine(options: HostOptions, openEngines: OpenEngines): Promise<Machine> {
  const unlock = lockInstance(options.stateDir)
  try {
    return await openParts(options, openEngines, unlock)
  } catch (error) {
    unlock()
    throw error
  }
}

async function openParts(
  options: HostOptions,
  openEngines: OpenEngines,
  unlock: () => void,
): Promise<Machine> {
  const { instance, runDir, stateDir, imagesDir, log } = options
  prepareRunDir(runDir)
  const naming = { instance, runDir, addressRange: options.addressRange, uidBase: options.uidBase }
  const layers = new LayerStore({ layersDir: join(imagesDir, 'layers'), mountsDir: join(runDir, 'layers') })
  const cgroups = new CgroupRoot({ instance })
  const uppers = await UpperStore.open({
    file: join(stateDir, 'uppers.btrfs'),
    mountPoint: join(runDir, 'uppers'),
    sizeMib: options.uppersMib,
  })
  // Before the probes: on cgroup v2 a group has no limits until those above it hand the controllers down.
  cgroups.prepare()
  const spareUidBase = slotUidBase(naming, options.maxSandboxes)
  const installed = await openEngines({ runDir, layers, uppers, cgroups, spareUidBase })
  const engines = new Engines(
    await probeEach(installed, options.isolation === undefined),
    options.isolation,
    options.mayServeNothing,
  )
  const network = new NetworkSlots({ ...naming, mbitPerSlot: options.sandboxMbit })
  const upstreams =
    options.dnsUpstreams.length > 0 ? options.dnsUpstreams.map(upstreamOf) : machineResolvers()
  const egressOf = (address: string): Egress | undefined => network.egressOf(address)
  const dns = new DnsForwarder({
    ...network.dnsEndpoint,
    upstreams,
    resolversOf: (client) => egressOf(client)?.resolvers,
  })
  const { forbiddenRanges, egressEndpoint } = network
  const authority = await EgressAuthority.open(join(stateDir, 'egress'))
  const transforms = new HeaderTransforms(authority)
  const egress = new EgressProxyServer({
    ...egressEndpoint,
    egressOf,
    forbiddenRanges,
    upstreams,
    transforms,
    log,
  })
  const slots = new SlotPool({
    naming,
    network,
    onCleaned: (slot) => egress.drop(slot.address),
    cgroups,
    readyCount: options.slotsReady,
    maxSlots: options.maxSandboxes,
    onReady: async (slot) => {
      for (const engine of engines.all) await engine.prepare(slot)
    },
    onError: (slot, error) => log.error({ event: 'slot.failed', slot, err: error }),
    onRulesLost: (error) => log.error({ event: 'network.rules_lost', restored: !error, err: error }),
  })
  return {
    engines,
    slots,
    uppers,
    layers,
    egressAuthorityPem: authority.certPem,
    eventsEndpoint: network.eventsEndpoint,
    async start(entries, keptUpperIds) {
      await slots.start(new Map(entries.map((entry) => [entry.slot.index, entry.network])))
      uppers.sweep(new Set([...entries.map((entry) => entry.upper.id), ...keptUpperIds]))
      await dns.start()
      await egress.start()
    },
    async close({ destroy }) {
      await slots.stop({ destroy })
      await dns.stop()
      await egress.stop()
      await uppers.settled().catch((error: unknown) => log.error({ event: 'uppers.kept', err: error }))
      if (destroy) {
        await uppers.close()
        removeRunDir(runDir)
      }
      unlock()
    },
  }
}

function upstreamOf(text: string): DnsUpstream {
  const [, address, port] = /^(.+?)(?::(\d+))?$/.exec(text.trim()) ?? []
  return { address: address ?? text, port: Number(port ?? 53) }
}
