import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AgentClient } from '@sandbox/host/agent-client'
import { cloneIdentity } from '@sandbox/host/clone-identity'
import type { Engine } from '@sandbox/host/engines/engine'
import { layerStack } from '@sandbox/host/layer-stack'
import { type Machine, openMachine } from '@sandbox/host/machine'
import { bringServicesUp } from '@sandbox/host/services-up'
import { type SnapshotManifest, type SnapshotMemory, SnapshotStore } from '@sandbox/host/snapshots'
import { type Config, loadConfig } from '../packages/server/src/config.ts'
import { openContainerEngine } from '../packages/server/src/engines/container.ts'
import { hostOptions } from '../packages/server/src/host-role.ts'
import { openLog } from '../packages/server/src/log.ts'
import { type Runtime, requireRuntime } from '../packages/server/src/runtime.ts'

/** The engine alone, without API, host logic and edge: what a start costs at least, and what it would cost otherwise. */

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
 * Opens an instance of its own for measuring, of which nothing is left afterwards.
 * @param restores copy-on-write, or copying as a stock CRIU does
 */
export async function withFloor<T>(
  snapshotId: string,
  restores: 'cow' | 'stock',
  measure: (floor: FloorBench) => Promise<T>,
): Promise<T> {
  const stateDir = mkdtempSync(join(tmpdir(), 'e2b-floor-'))
  const config = floorConfig(stateDir)
  const runtime = requireRuntime(config)
  const criu = runtime.criu && { ...runtime.criu, kind: restores }
  try {
    return await withMachine(config, { ...runtime, criu }, async (machine) =>
      measure(await FloorBench.open(config, machine, snapshotId)),
    )
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
      E2B_UID_BASE: String(0x6c000000),
      E2B_UPPERS_GIB: '16',
      E2B_CONFIG: join(stateDir, 'no-config-file.json'),
    },
  )
}

async function withMachine<T>(
  config: Config,
  runtime: Runtime,
  measure: (machine: Machine) => Promise<T>,
): Promise<T> {
  const options = hostOptions(config, openLog('error'))
  const machine = await openMachine(options, async (parts) => [openContainerEngine(runtime, parts)])
  try {
    await machine.start([], new Set())
    return await measure(machine)
  } finally {
    await machine.close({ destroy: true })
  }
}

/** One start at a time, each in a slot that was made ready before. */
export class FloorBench {
  readonly #machine: Machine
  readonly #manifest: SnapshotManifest
  readonly #memory: SnapshotMemory

  private constructor(machine: Machine, manifest: SnapshotManifest, memory: SnapshotMemory) {
    this.#machine = machine
    this.#manifest = manifest
    this.#memory = memory
  }

  static async open(config: Config, machine: Machine, snapshotId: string): Promise<FloorBench> {
    const store = new SnapshotStore(join(config.imagesDir, 'snapshots'), machine.engines.hostClasses, 'bench')
    const memory = await store.memory(snapshotId, machine.engines.for(undefined).hostClass())
    if (!memory) throw new Error("the template has no memory for this machine: run 'npm run quickstart'")
    const bench = new FloorBench(machine, await store.manifest(snapshotId), memory)
    // The first one reads the images from the disk.
    await bench.restore()
    return bench
  }

  restore(): Promise<RestoreTimes> {
    return this.#once(this.#memory.layers, this.#memory.dir)
  }

  boot(): Promise<BootTimes> {
    return this.#once(this.#manifest.layers, undefined)
  }

  async #once(layerDigests: readonly string[], memoryDir: string | undefined): Promise<BootTimes> {
    const { slots, uppers, layers } = this.#machine
    const engine = this.#machine.engines.for(undefined)
    const { config } = this.#manifest
    const slot = await slots.claim()
    const upper = uppers.take(config.limits.diskMib)
    const agent = new AgentClient(slot.address)
    const startedMs = performance.now()
    const since = (): number => performance.now() - startedMs
    let instance: Awaited<ReturnType<Engine['start']>> | undefined
    try {
      instance = await engine.start({
        ...{ sandboxId: 'floor', hostname: 'floor', slot, upper, memoryDir },
        layers: layerStack(layers, layerDigests),
        limits: config.limits,
      })
      const engineMs = since()
      await agent.waitHealthy(BOOT_WITHIN_MS)
      const agentMs = since()
      if (memoryDir === undefined) {
        const nobody = { sandboxId: 'floor', templateId: '', envVars: {}, envdAccessToken: undefined }
        await agent.init(cloneIdentity(nobody, config), BOOT_WITHIN_MS)
        await bringServicesUp(agent, config)
      }
      return { engineMs, agentMs, servicesMs: since() }
    } finally {
      agent.close()
      if (instance) await engine.stop(instance)
      uppers.release(upper)
      slots.release(slot)
      await slots.idle()
    }
  }
}
