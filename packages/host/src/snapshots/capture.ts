import { newUuid, randomName } from '@sandbox/contract/ids'
import { bringServicesUp, type ServicesUpOptions } from '../agent/services-up.ts'
import { type Cell, type CellParts, type CellPlan, openCell } from '../cells/cells.ts'
import type { LayerSource } from '../cells/parts.ts'
import type { Engine } from '../engines/engine.ts'
import { HostError } from '../host-error.ts'
import { openPolicy } from '../network/policy.ts'
import { cloneIdentity } from '../starting/clone-identity.ts'
import type { Layer } from '../storage/layers.ts'
import { layerStack, withWritten } from './layer-stack.ts'
import type { SnapshotManifest, SnapshotStore } from './snapshots.ts'

/** Boots a snapshot's files once, waits until everything answers, and keeps its memory for all later starts. */

export interface CaptureParts {
  cells: CellParts
  layers: LayerSource
  store: SnapshotStore
}

const BOOT_WITHIN_MS = 60_000
const HOOK_WITHIN_MS = 30_000
const REHEARSALS = 10

/**
 * Boots, readies and captures a snapshot on an engine, and publishes its memory; the manifest may be published later.
 * @throws HostError failed when boot, start command or capture fail
 */
export async function captureMemory(
  parts: CaptureParts,
  manifest: SnapshotManifest,
  engine: Engine,
  options: ServicesUpOptions = {},
): Promise<void> {
  const layers = layerStack(parts.layers, manifest.layers)
  const draft = await parts.store.draftMemory()
  let cell: Cell | undefined
  try {
    cell = await openCell(parts.cells, bootPlan(manifest, engine, layers), {}, options.signal)
    await makeReady(cell, manifest, options)
    options.onLine?.('info', 'Capturing memory')
    const { sizeBytes } = await cell.capture({
      memoryDir: draft.dir,
      leaveRunning: false,
    })
    await cell.stop()
    const digests =
      engine.writtenIn === 'upper'
        ? await withWritten(parts.layers, manifest.layers, cell.upper)
        : manifest.layers
    await parts.store.publishMemory(manifest.id, engine.hostClass(), draft, { layers: digests, sizeBytes })
  } finally {
    // In this order: what runs must go, also where a file does not.
    await cell?.release()
    await parts.store.dropDraft(draft)
  }
}

const bootPlan = (manifest: SnapshotManifest, engine: Engine, layers: readonly Layer[]): CellPlan => ({
  occupant: 'build',
  engine,
  sandboxId: `b${randomName(20)}`,
  snapshotId: manifest.id,
  templateId: '',
  layers,
  limits: manifest.config.limits,
  memoryDir: undefined,
  network: openPolicy,
  endAtMs: undefined,
  onEnd: 'kill',
  config: manifest.config,
})

async function makeReady(cell: Cell, manifest: SnapshotManifest, options: ServicesUpOptions): Promise<void> {
  const { config } = manifest
  const request = {
    sandboxId: `b${randomName(20)}`,
    templateId: newUuid(),
    envVars: {},
    envdAccessToken: undefined,
  }
  const identity = cloneIdentity(request, config)
  await cell.whileAlive(cell.agent.init(identity, BOOT_WITHIN_MS))
  // More than once: clones begin with what the agent has compiled by now, and each begins with this very call.
  for (let time = 0; time < REHEARSALS; time++)
    await cell.whileAlive(cell.agent.init(identity, BOOT_WITHIN_MS))
  await cell.whileAlive(bringServicesUp(cell.agent, config, options))
  for (const hook of config.beforeCapture) await askBeforeCapture(cell, hook.port, hook.path)
  cell.agent.disconnect()
}

/** A service that is not there has nothing to prepare; one that answers with an error stops the capture. */
async function askBeforeCapture(cell: Cell, port: number, path: string): Promise<void> {
  const call = { method: 'POST', path, port, json: {}, timeoutMs: HOOK_WITHIN_MS } as const
  const answer = await cell.agent.send(call).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ECONNREFUSED') return undefined
    throw new HostError('failed', `port ${port} did not prepare for the capture`, error)
  })
  if (answer && answer.status >= 400 && answer.status !== 404) {
    throw new HostError(
      'failed',
      `port ${port} could not prepare for the capture: ${answer.body.slice(0, 300)}`,
    )
  }
}
