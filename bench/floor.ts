import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AgentClient } from '@sandbox/host/agent-client'
import { cloneIdentity } from '@sandbox/host/clone-identity'
import type { Engine } from '@sandbox/host/engines/engine'
import { layerStack } from '@sandbox/host/layer-stack'
import { type Machine, openMachine } from '@sandbox/host/machine'
import { bringServicesUp } from '@sandbox/host/services-up'
import { type SnapshotManifest, SnapshotStore } from '@sandbox/host/snapshots'
import { pino } from 'pino'
import { type Config, loadConfig } from '../packages/server/src/config.ts'
import { openContainerEngine } from '../packages/server/src/engines.ts'
import { hostOptions } from '../packages/server/src/host-role.ts'
import { type Runtime, requireRuntime } from '../packages/server/src/runtime.ts'
import { step } from './progress.ts'

/** The engine alone, without API, host logic and edge: what a start costs at least, and what it would cost otherwise. */

export interface FloorRow {
  /** Milliseconds until the engine said that init runs. */
  readonly engineMs: readonly number[]
  /** Milliseconds until the agent answered `GET /health`. */
  readonly agentMs: readonly number[]
}

export interface ColdRow extends FloorRow {
  /** Milliseconds until the start command's service (the interpreter) was ready. */
  readonly servicesMs: readonly number[]
}

export interface Floor {
  readonly copyOnWrite: FloorRow
  readonly copying: FloorRow
  readonly cold: ColdRow
}

export interface FloorRounds {
  restores: number
  boots: number
}

const BOOT_WITHIN_MS = 60_000
const WARM_UP = 2

/** Measures with an instance of its own, of which nothing is left. */
export async function measureFloor(snapshotId: string, rounds: FloorRounds): Promise<Floor> {
  const stateDir = mkdtempSync(join(tmpdir(), 'e2b-floor-'))
  const config = floorConfig(stateDir)
  const runtime = requireRuntime(config)
  try {
    const restore = (kind: 'cow' | 'stock'): Promise<FloorRow> =>
      withMachine(
        config,
        { ...runtime, criu: runtime.criu && { ...runtime.criu, kind } },
        async (machine) => {
          const bench = await EngineBench.open(config, machine, snapshotId)
          return bench.restores(rounds.restores)
        },
      )
    step('Bare restore, copy-on-write (the floor)')
    const copyOnWrite = await restore('cow')
    step('Bare restore, copying (as stock CRIU)')
    const copying = await restore('stock')
    step('Cold boot with crun')
    const cold = await withMachine(config, runtime, async (machine) => {
      const bench = await EngineBench.open(config, machine, snapshotId)
      return bench.boots(rounds.boots)
    })
    return { copyOnWrite, copying, cold }
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
  const options = hostOptions(config, pino({ level: 'error' }, pino.destination({ dest: 2, sync: true })))
  const machine = await openMachine(options, (parts) => openContainerEngine(runtime, parts))
  try {
    await machine.start([])
    return await measure(machine)
  } finally {
    await machine.close({ destroy: true })
  }
}

class EngineBench {
  readonly #machine: Machine
  readonly #manifest: SnapshotManifest
  readonly #store: SnapshotStore

  private constructor(machine: Machine, manifest: SnapshotManifest, store: SnapshotStore) {
    this.#machine = machine
    this.#manifest = manifest
    this.#store = store
  }

  static async open(config: Config, machine: Machine, snapshotId: string): Promise<EngineBench> {
    const store = new SnapshotStore(join(config.imagesDir, 'snapshots'), machine.engine.hostClass(), 'bench')
    return new EngineBench(machine, await store.manifest(snapshotId), store)
  }

  async restores(rounds: number): Promise<FloorRow> {
    const memory = await this.#store.memory(this.#manifest.id)
    if (!memory) throw new Error('the snapshot has no memory for this machine: run npm run quickstart')
    const row = { engineMs: [] as number[], agentMs: [] as number[] }
    for (let round = -WARM_UP; round < rounds; round++) {
      const { engineMs, agentMs } = await this.#once(memory.layers, memory.dir)
      if (round < 0) continue
      row.engineMs.push(engineMs)
      row.agentMs.push(agentMs)
    }
    return row
  }

  async boots(rounds: number): Promise<ColdRow> {
    const row = { engineMs: [] as number[], agentMs: [] as number[], servicesMs: [] as number[] }
    for (let round = 0; round < rounds; round++) {
      const { engineMs, agentMs, servicesMs } = await this.#once(this.#manifest.layers, undefined)
      row.engineMs.push(engineMs)
      row.agentMs.push(agentMs)
      row.servicesMs.push(servicesMs)
    }
    return row
  }

  async #once(layerDigests: readonly string[], memoryDir: string | undefined) {
    const { engine, slots, uppers, layers } = this.#machine
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
