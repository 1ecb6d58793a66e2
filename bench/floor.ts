import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AgentClient } from '@sandbox/host/agent/agent-client'
import { bringServicesUp } from '@sandbox/host/agent/services-up'
import type { Engine, EngineName, EngineReport, Instance } from '@sandbox/host/engines/engine'
import { type Machine, type OpenEngines, openMachine } from '@sandbox/host/machine'
import { layerStack } from '@sandbox/host/snapshots/layer-stack'
import { type SnapshotManifest, type SnapshotMemory, SnapshotStore } from '@sandbox/host/snapshots/snapshots'
import { cloneIdentity } from '@sandbox/host/starting/clone-identity'
import { type Config, loadConfig } from '../packages/server/src/config.ts'
import { openContainerEngine } from '../packages/server/src/engines/container.ts'
import { openInstalledEngines } from '../packages/server/src/engines/installed.ts'
import { hostOptions } from '../packages/server/src/host-role.ts'
import { openLog } from '../packages/server/src/log.ts'
import { type Runtime, requireRuntime } from '../packages/server/src/runtime.ts'

/** An engine alone, without API, host logic and edge: what a start costs at least, and what it would cost otherwise. */

export interface RestoreTimes {
  /** Milliseconds until the engine said that init runs. */
  readonly engineMs: number
  /** Milliseconds until the agent answered `GET /health`. */
  readonly agentMs: number
}

export interface BootTimes extends RestoreTimes {
  /** Milliseconds until the start command's service (the interpreter) was ready. */
  readonly servicesMs: number
}

const BOOT_WITHIN_MS = 60_000

/**
 * The container engine in an instance of its own for measuring, of which nothing is left afterwards.
 * @param restores copy-on-write, or copying as a stock CRIU does
 */
export function withFloor<T>(
  snapshotId: string,
  restores: 'cow' | 'stock',
  measure: (floor: FloorBench) => Promise<T>,
): Promise<T> {
  const open = (_config: Config, runtime: Runtime): OpenEngines => {
    const criu = runtime.criu && { ...runtime.criu, kind: restores }
    return async (parts) => [openContainerEngine({ ...runtime, criu }, parts)]
  }
  return inInstance(open, async (config, machine) =>
    measure(await FloorBench.open(config, machine, snapshotId, 'container')),
  )
}

/** The floors of several engines at once, in the same instance: each needs memory of the snapshot. */
export function withFloors<T>(
  snapshotId: string,
  names: readonly EngineName[],
  measure: (floors: ReadonlyMap<EngineName, FloorBench>) => Promise<T>,
): Promise<T> {
  const open =
    (config: Config, runtime: Runtime): OpenEngines =>
    async (parts) => {
      const installed = await openInstalledEngines(config, runtime, parts)
      return installed.filter(({ name }) => names.includes(name))
    }
  return inInstance(open, async (config, machine) => {
    const floors = new Map<EngineName, FloorBench>()
    for (const name of names) floors.set(name, await FloorBench.open(config, machine, snapshotId, name))
    return await measure(floors)
  })
}

/** Every installed engine, strongest first, and whether it boots something here. */
export function probeInstalled(): Promise<readonly { name: EngineName; report: EngineReport }[]> {
  const open =
    (config: Config, runtime: Runtime): OpenEngines =>
    (parts) =>
      openInstalledEngines(config, runtime, parts)
  return inInstance(open, async (_config, machine) => machine.engines.reports)
}

async function inInstance<T>(
  open: (config: Config, runtime: Runtime) => OpenEngines,
  measure: (config: Config, machine: Machine) => Promise<T>,
): Promise<T> {
  const stateDir = mkdtempSync(join(tmpdir(), 'e2b-floor-'))
  const config = floorConfig(stateDir)
  try {
    const options = hostOptions(config, openLog('error'))
    const machine = await openMachine(options, open(config, requireRuntime(config)))
    try {
      await machine.start([], new Set())
      return await measure(config, machine)
    } finally {
      await machine.close({ destroy: true })
    }
  } finally {
    rmSync(stateDir, { recursive: true, force: true })
  }
}

function floorConfig(stateDir: string): Config {
  return loadConfig(
    {},
    {
      E2B_INSTANCE: 'flr',
      E2B_STATE_DIR: stateDir,
      E2B_IMAGES_DIR: loadConfig().imagesDir,
      E2B_RUN_DIR: '/run/e2b-flr',
      E2B_ADDRESS_RANGE: '10.131.0.0/16',
      E2B_UID_BASE: String(0x6e000000),
      E2B_UPPERS_GIB: '16',
      E2B_CONFIG: '/dev/null',
    },
  )
}

interface FloorParts {
  machine: Machine
  engine: Engine
  manifest: SnapshotManifest
  memory: SnapshotMemory
  /** Where captures are written, one at a time. */
  captureDir: string
}

/** What was started, and since when. */
interface Started {
  instance: Instance
  agent: AgentClient
  engineMs: number
  agentMs: number
  since: () => number
}

/** One start at a time, each in a slot that was made ready before. */
export class FloorBench {
  readonly #parts: FloorParts

  private constructor(parts: FloorParts) {
    this.#parts = parts
  }

  static async open(
    config: Config,
    machine: Machine,
    snapshotId: string,
    name: EngineName,
  ): Promise<FloorBench> {
    const engine = machine.engines.for(name)
    const store = new SnapshotStore(
      join(config.imagesDir, 'snapshots'),
      () => machine.engines.hostClasses,
      'bench',
    )
    const memory = await store.memory(snapshotId, engine.hostClass())
    if (!memory) throw new Error(`the template has no memory for ${name} here: run 'npm run quickstart'`)
    const manifest = await store.manifest(snapshotId)
    const captureDir = join(config.stateDir, `capture-${name}`)
    const bench = new FloorBench({ machine, engine, manifest, memory, captureDir })
    // The first one reads the images from the disk.
    await bench.restore()
    return bench
  }

  restore(): Promise<RestoreTimes> {
    const { memory } = this.#parts
    return this.#once(memory.layers, memory.dir, async ({ engineMs, agentMs }) => ({ engineMs, agentMs }))
  }

  boot(): Promise<BootTimes> {
    const { layers, config } = this.#parts.manifest
    return this.#once(layers, undefined, async ({ agent, engineMs, agentMs, since }) => {
      const nobody = { sandboxId: 'floor', templateId: '', envVars: {}, envdAccessToken: undefined }
      await agent.init(cloneIdentity(nobody, config), BOOT_WITHIN_MS)
      await bringServicesUp(agent, config)
      return { engineMs, agentMs, servicesMs: since() }
    })
  }

  /** Milliseconds that the engine takes to write the memory of a restored sandbox, which ends by it. */
  capture(): Promise<number> {
    const { memory, engine, captureDir } = this.#parts
    return this.#once(memory.layers, memory.dir, async ({ instance, agent, since }) => {
      agent.close()
      mkdirSync(captureDir)
      try {
        const startedMs = since()
        await engine.capture(instance, { memoryDir: captureDir, leaveRunning: false })
        return since() - startedMs
      } finally {
        rmSync(captureDir, { recursive: true })
      }
    })
  }

  async #once<T>(
    layerDigests: readonly string[],
    memoryDir: string | undefined,
    use: (started: Started) => Promise<T>,
  ): Promise<T> {
    const { machine, engine, manifest } = this.#parts
    const { slots, uppers, layers } = machine
    const { limits } = manifest.config
    const slot = await slots.claim()
    const upper = uppers.take(limits.diskMib)
    const agent = new AgentClient(slot.address)
    const startedMs = performance.now()
    const since = (): number => performance.now() - startedMs
    let instance: Instance | undefined
    try {
      instance = await engine.start({
        ...{ sandboxId: 'floor', hostname: 'floor', slot, upper, memoryDir, limits },
        layers: layerStack(layers, layerDigests),
      })
      const engineMs = since()
      await agent.waitHealthy(BOOT_WITHIN_MS)
      return await use({ instance, agent, engineMs, agentMs: since(), since })
    } finally {
      agent.close()
      if (instance) await engine.stop(instance)
      uppers.release(upper)
      slots.release(slot)
      await slots.idle()
    }
  }
}
