import { cpus } from 'node:os'
import { join } from 'node:path'
import type { ConnectRouter } from '@connectrpc/connect'
import { Host as HostService } from '@sandbox/contract/gen/host/host_pb'
import { randomName } from '@sandbox/contract/ids'
import { Builder } from './builds/builder.ts'
import { StepCache } from './builds/step-cache.ts'
import { Admission, readMachineMemory } from './cells/admission.ts'
import type { Cell, CellParts } from './cells/cells.ts'
import { digestsOf, Journal, type JournalEntry, readBootId } from './cells/journal.ts'
import { sweepAtStart } from './cells/sweep.ts'
import { ENGINE_NAMES } from './engines/engine.ts'
import type { Engines } from './engines/engines.ts'
import { EventListener } from './guest-logs/event-listener.ts'
import { LogRelay } from './guest-logs/log-relay.ts'
import { fileSystemOf } from './linux/file-system.ts'
import { type Machine, type OpenEngines, openMachine } from './machine.ts'
import { MachineGauge } from './machine-gauge.ts'
import type { HostOptions } from './options.ts'
import { Metrics } from './sandboxes/metrics.ts'
import { recountFiles } from './sandboxes/recount.ts'
import { Sandboxes } from './sandboxes/sandboxes.ts'
import { hostService, type MachineStatus } from './service/service.ts'
import { captureMemory } from './snapshots/capture.ts'
import { ImageCollector } from './snapshots/image-collector.ts'
import { Keeper } from './snapshots/keeper.ts'
import { KeptSnapshots } from './snapshots/kept-snapshots.ts'
import { LayerReferences } from './snapshots/layer-references.ts'
import { layerStack } from './snapshots/layer-stack.ts'
import { SnapshotStore } from './snapshots/snapshots.ts'
import { WarmSnapshots } from './snapshots/warm-snapshots.ts'
import { Foreground } from './starting/foreground.ts'
import { Pool } from './starting/pool.ts'
import { openPooled, Starter } from './starting/start.ts'
import type { LayerStore } from './storage/layers.ts'

/** One machine that runs sandboxes, composed. Nothing in the kernel is touched before `start`. */
export interface Host {
  /** Adds the host service to a Connect router. */
  routes(router: ConnectRouter): void
  /** Adopts what runs, removes what nobody knows, and is ready for starts. */
  start(): Promise<void>
  /** Ends all sandboxes, or leaves them running for the next start. */
  close(options: { keepSandboxes: boolean }): Promise<void>
}

/** Upkeep of pool and caches; nothing exact depends on it. */
const UPKEEP_EVERY_MS = 30_000

/**
 * Opens a host and starts it.
 * @throws HostError exists when another daemon runs this instance; whatever the machine refuses
 */
export async function createHost(options: HostOptions, openEngines: OpenEngines): Promise<Host> {
  const machine = await openMachine(options, openEngines)
  const { engines, slots, uppers, layers, egressAuthorityPem } = machine
  const journal = new Journal(join(options.stateDir, 'journal'), readBootId())
  const owner = `${options.hostId}-${options.instance}`
  const store = new SnapshotStore(join(options.imagesDir, 'snapshots'), () => engines.hostClasses, owner)
  const kept = new KeptSnapshots(join(options.stateDir, 'snapshots'), engines, uppers)
  const admission = new Admission(options)
  const nowMs = (): number => Date.now()
  const { imagesDir, hostId, stateDir } = options
  const references = new LayerReferences(join(imagesDir, 'references'), { name: owner, hostId, stateDir })
  const claimLayers = layerClaims(references, layers)
  const cells: CellParts = {
    ...{ admission, engines, journal, slots, uppers },
    ...{ claimLayers, nowMs, egressAuthorityPem, timeScale: options.timeScale },
  }
  const captureParts = { cells, layers, store }
  const foreground = new Foreground()
  const snapshots = new WarmSnapshots({
    store,
    layers,
    engines,
    captureMemory: (manifest, engine) => captureMemory(captureParts, manifest, engine),
  })
  const { log } = options
  const pool = new Pool(options.pool, {
    open: async ({ snapshotId, engine }) =>
      openPooled(cells, await snapshots.ready(snapshotId, engine), `p${randomName(20)}`),
    foreground,
    isMemoryTight: () => admission.isTight(),
    log,
  })
  const starter = new Starter({ cells, kept, layers, snapshots, pool, foreground, log })
  const freeBytes = (): number => fileSystemOf(options.stateDir).availableBytes
  const keeper = new Keeper({ kept, uppers, freeBytes, log })
  const sandboxes = new Sandboxes({
    start: (request, phases, signal) => starter.start(request, phases, signal),
    keep: (sandboxId, cell, request) => keeper.keep(sandboxId, cell, request),
    kept,
    log,
  })
  const { agentVersion, maxBuilds, defaultLimits } = options
  const cache = new StepCache(join(options.imagesDir, 'build-steps'))
  const ownDigests = (): Set<string> =>
    new Set([...options.agentLayers(), ...kept.layerDigests(), ...journal.read().entries.flatMap(digestsOf)])
  const collector = new ImageCollector({
    ...{ imagesDir, layers, references, snapshots: store, steps: cache, ownDigests, log },
    agentLayers: options.agentLayers,
    neededSnapshots: options.neededSnapshots,
    startedFrom: () =>
      journal.read().entries.flatMap(({ occupant, snapshotId }) => (occupant === 'pooled' ? [] : snapshotId)),
    async onSnapshotGone(id) {
      snapshots.forget(id)
      await pool.drop(id)
    },
  })
  const builder = new Builder({ ...captureParts, cache, agentVersion, maxBuilds, log })
  const gauge = new MachineGauge([options.stateDir, imagesDir, uppers.mountPoint])
  const status = (): MachineStatus => machineStatus({ options, engines, store, admission, gauge })

  const metrics = new Metrics({ cells: () => sandboxes.cells(), uppers, log })
  const relay = new LogRelay()
  const listener = new EventListener({
    ...machine.eventsEndpoint,
    sandboxAt: (address) => sandboxes.cells().find(([, cell]) => cell.address === address)?.[0],
    relay,
    log,
  })
  let upkeep: NodeJS.Timeout | undefined
  const recount = oneAtATime(() => recountFiles(sandboxes.cells(), uppers, log))
  const tend = oneAtATime(() => runUpkeep({ options, pool, store, kept, snapshots, journal, machine }))
  return {
    routes: (router) =>
      router.service(
        HostService,
        hostService({ sandboxes, kept, metrics, relay, builder, defaultLimits, status }),
      ),
    async start() {
      const startMs = performance.now()
      const content = journal.read()
      await kept.sweepUnfinished()
      await machine.start(content.entries, kept.upperIds())
      const adopt = (entry: JournalEntry, cell: Cell): Promise<void> =>
        adoptInto(sandboxes, pool, entry, cell)
      const swept = await sweepAtStart({ cells, kept, adopt, log }, content)
      upkeep = setInterval(() => {
        tend()
        recount()
      }, UPKEEP_EVERY_MS)
      upkeep.unref()
      await store.sweepUnfinished()
      await listener.start()
      collector.start()
      log.info({
        event: 'host.start',
        ...swept,
        tookMs: Math.round(performance.now() - startMs),
        engines: engines.reports,
        engine: engines.serving?.name,
      })
      for (const { name, report } of engines.passedOver)
        log.warn({ event: 'engine.passedOver', name, ...report, instead: engines.serving?.name })
    },
    async close({ keepSandboxes }) {
      clearInterval(upkeep)
      foreground.close()
      relay.close()
      await listener.stop()
      await sandboxes.close(keepSandboxes)
      await pool.close(keepSandboxes)
      await collector.stop()
      await machine.close({ destroy: journal.read().entries.length === 0 })
      log.info({ event: 'host.close', keepSandboxes })
    },
  }
}

function layerClaims(references: LayerReferences, layers: LayerStore): (digests: readonly string[]) => void {
  return (digests) => {
    if (!references.claim(digests)) return
    // Only now nobody takes them away any more: one that is there stays.
    layerStack(layers, digests)
  }
}

/** A pooled one is frozen again: the daemon may have ended between its thaw and its claim. */
async function adoptInto(sandboxes: Sandboxes, pool: Pool, entry: JournalEntry, cell: Cell): Promise<void> {
  if (entry.occupant === 'sandbox') return sandboxes.adopt(entry, cell)
  await cell.freeze()
  pool.adopt({ snapshotId: entry.snapshotId, engine: entry.engine }, cell)
}

interface UpkeepParts {
  options: HostOptions
  pool: Pool
  store: SnapshotStore
  kept: KeptSnapshots
  snapshots: WarmSnapshots
  journal: Journal
  machine: Machine
}

async function runUpkeep(parts: UpkeepParts): Promise<void> {
  const { options, pool, store, kept, snapshots, journal, machine } = parts
  try {
    await recoverDisks(parts)
    await pool.tend()
    await store.keepUse()
    const dropped = await store.evict(options.memoryCacheMib * 2 ** 20, pool.snapshotIds())
    for (const id of dropped) snapshots.forget(id)
    // Between its taking and its journal entry nothing else runs, so an upper without an entry is nobody's.
    const running = journal.read().entries.map((entry) => entry.upper.id)
    const removed = machine.uppers.sweep(new Set([...running, ...kept.upperIds()]))
    if (removed.length > 0) options.log.info({ event: 'host.upkeep', uppersRemoved: removed.length })
  } catch (error) {
    options.log.error({ event: 'host.upkeep', err: error })
  }
}

/** What is asked for while it runs is left out. */
function oneAtATime(work: () => Promise<void>): () => void {
  let isRunning = false
  return () => {
    if (isRunning) return
    isRunning = true
    void work().finally(() => {
      isRunning = false
    })
  }
}

/** After the disks were full and there is room again: what could not be used or tried then is now. */
async function recoverDisks({ options, pool, journal, machine }: UpkeepParts): Promise<void> {
  const { uppers, engines } = machine
  if (!uppers.isWritable()) {
    await pool.drain()
    const isFree = journal.read().entries.length === 0
    const isWritable = isFree && (await uppers.reopen())
    options.log[isWritable ? 'info' : 'warn']({ event: 'host.disks_were_full', isWritable })
    if (!isWritable) return
  }
  for (const { engine, report } of await engines.probeAgain())
    options.log.info({ event: 'host.probed_again', engine: engine.name, report })
}

interface StatusParts {
  options: HostOptions
  engines: Engines
  store: SnapshotStore
  admission: Admission
  gauge: MachineGauge
}

function machineStatus({ options, engines, store, admission, gauge }: StatusParts): MachineStatus {
  const { totalMib, availableMib } = readMachineMemory()
  return {
    hostId: options.hostId,
    memoryTotalBytes: totalMib * 2 ** 20,
    memoryAvailableBytes: availableMib * 2 ** 20,
    cpuCount: cpus().length,
    sandboxCapacity: options.maxSandboxes,
    engines: [
      ...engines.reports.map(({ name, report }) => ({ name, ...report })),
      ...ENGINE_NAMES.filter((name) => !engines.named(name)).map((name) => ({
        ...{ name, usable: false, version: '', detail: 'not installed' },
        remedy: options.installCommands[name] ?? '',
      })),
    ],
    warmSnapshotIds: store.warmIds(),
    machine: gauge.facts,
    allocated: admission.allocated,
    cpuUsedPct: gauge.cpuUsedPct(),
    disks: gauge.disks(),
  }
}
