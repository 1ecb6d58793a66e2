import { randomName } from '@sandbox/contract/ids'
import type { Logger } from 'pino'
import { type Cell, type CellPlan, openCell } from '../cells/cells.ts'
import type { Limits } from '../engines/engine.ts'
import type { Isolation } from '../engines/engines.ts'
import { HostError } from '../host-error.ts'
import { openPolicy } from '../network/policy.ts'
import type { CaptureParts } from '../snapshots/capture.ts'
import { captureMemory } from '../snapshots/capture.ts'
import { layerStack, withWritten } from '../snapshots/layer-stack.ts'
import type { SnapshotConfig, SnapshotManifest } from '../snapshots/snapshots.ts'
import { cloneIdentity } from '../starting/clone-identity.ts'
import { baseKey, type StepCache, type StepResult, stepKey } from './step-cache.ts'
import { applyStep, type BuildStep, touchesFiles } from './steps.ts'

/** Builds a snapshot: base, steps (each a layer, each cached), one boot, its memory captured. */

export type BuildBase =
  | { kind: 'snapshot'; id: string }
  | { kind: 'directory'; path: string }
  | { kind: 'image'; name: string }

export interface BuildPlan {
  buildId: string
  base: BuildBase
  steps: readonly BuildStep[]
  /** Empty inherits the base snapshot's. */
  startCmd: string
  readyCmd: string
  limits: Limits
  /** Engine whose memory is captured, and that all starts use; undefined leaves it to each machine. */
  isolation: Isolation | undefined
  force: boolean
}

export interface BuildLine {
  level: 'debug' | 'info' | 'warn' | 'error'
  message: string
  /** `base`, the 1-based number of a step, or `finalize`. */
  step: string
}

export interface BuildResult {
  snapshotId: string
  diskSizeMib: bigint
  envdVersion: string
}

export interface BuilderParts extends CaptureParts {
  cache: StepCache
  agentVersion: string
  maxBuilds: number
  log: Logger
}

interface Base {
  result: StepResult
  startCmd: string
  readyCmd: string
}

interface Progress {
  result: StepResult
  key: string
  /** Once a step ran, all that follow it run too. */
  isCached: boolean
}

const AGENT_WITHIN_MS = 60_000
/** Gibibytes may be unwritten. */
const WRITE_OUT_WITHIN_MS = 300_000
/** Asked before a capture, where somebody listens. */
const BEFORE_CAPTURE = [{ port: 49999, path: '/quiesce' }]

export class Builder {
  readonly #parts: BuilderParts
  #running = 0

  constructor(parts: BuilderParts) {
    this.#parts = parts
  }

  /**
   * Builds and publishes the snapshot `buildId`. Repeating a finished build answers at once. When it fails, the last
   * line says why and at which step.
   * @throws HostError noRoom, notFound, unsupported, failed; the reason of `signal`
   */
  async build(plan: BuildPlan, emit: (line: BuildLine) => void, signal: AbortSignal): Promise<BuildResult> {
    if (this.#running >= this.#parts.maxBuilds) {
      throw new HostError('noRoom', `this host runs its maximum of ${this.#parts.maxBuilds} builds`)
    }
    this.#running++
    const startMs = performance.now()
    let step = 'base'
    const say = (said: BuildLine): void => {
      step = said.step
      emit(said)
    }
    const line = { event: 'build', buildId: plan.buildId, steps: plan.steps.length }
    try {
      const manifest = await this.#build(plan, say, signal)
      const layers = layerStack(this.#parts.layers, manifest.layers)
      this.#parts.log.info({
        ...line,
        layers: layers.length,
        totalMs: Math.round(performance.now() - startMs),
      })
      const sizeBytes = layers.reduce((sum, layer) => sum + layer.sizeBytes, 0)
      return {
        snapshotId: manifest.id,
        diskSizeMib: BigInt(Math.ceil(sizeBytes / 2 ** 20)),
        envdVersion: manifest.agentVersion,
      }
    } catch (error) {
      emit({ level: 'error', message: (error as Error).message, step })
      this.#parts.log.warn({ ...line, totalMs: Math.round(performance.now() - startMs), err: error })
      throw error
    } finally {
      this.#running--
    }
  }

  async #build(
    plan: BuildPlan,
    emit: (line: BuildLine) => void,
    signal: AbortSignal,
  ): Promise<SnapshotManifest> {
    const { store } = this.#parts
    if (store.has(plan.buildId)) return store.manifest(plan.buildId)
    const base = await this.#base(plan.base, emit)
    const { layers, context } = await this.#runSteps(plan, base.result, emit, signal)
    const config: SnapshotConfig = {
      ...context,
      startCmd: plan.startCmd || base.startCmd,
      readyCmd: plan.readyCmd || base.readyCmd,
      beforeCapture: BEFORE_CAPTURE,
      limits: plan.limits,
      ...(plan.isolation ? { isolation: plan.isolation } : {}),
    }
    const { buildId: id } = plan
    const { agentVersion } = this.#parts
    const manifest: SnapshotManifest = {
      version: 1,
      id,
      layers,
      config,
      createdAtMs: Date.now(),
      agentVersion,
    }
    // The manifest comes last: a build whose start command fails leaves no snapshot.
    const engine = this.#parts.cells.engines.for(plan.isolation)
    if (engine.canCapture && !(await store.memory(id, engine.hostClass()))) {
      const onLine = (level: 'info' | 'debug', message: string): void =>
        emit({ level, message, step: 'finalize' })
      await captureMemory(this.#parts, manifest, engine, { signal, onLine })
    }
    await store.publish(manifest)
    return manifest
  }

  async #base(base: BuildBase, emit: (line: BuildLine) => void): Promise<Base> {
    if (base.kind === 'image') {
      throw new HostError('unsupported', `this host cannot build from an image yet: ${base.name}`)
    }
    if (base.kind === 'directory') {
      emit({ level: 'info', message: `Importing ${base.path}`, step: 'base' })
      const layer = await this.#parts.layers.importDirectory(base.path)
      const context = { envVars: {}, user: 'root', workdir: '/' }
      return { result: { layers: [layer.digest], context }, startCmd: '', readyCmd: '' }
    }
    const { config, layers } = await this.#parts.store.manifest(base.id)
    const { envVars, user, workdir, startCmd, readyCmd } = config
    return { result: { layers, context: { envVars, user, workdir } }, startCmd, readyCmd }
  }

  async #runSteps(
    plan: BuildPlan,
    base: StepResult,
    emit: (line: BuildLine) => void,
    signal: AbortSignal,
  ): Promise<StepResult> {
    let progress: Progress = { result: base, key: baseKey(base), isCached: !plan.force }
    for (const [index, step] of plan.steps.entries()) {
      signal.throwIfAborted()
      const number = String(index + 1)
      const key = stepKey(progress.key, step)
      const isCached = progress.isCached && !step.force
      const cached = isCached ? await this.#usable(key) : undefined
      const what = `[${number}/${plan.steps.length}] ${shortened(`${step.type.toUpperCase()} ${step.args.join(' ')}`)}`
      emit({ level: 'info', message: cached ? `CACHED ${what}` : what, step: number })
      const result = cached ?? (await this.#runStep(plan, step, progress.result, number, emit, signal))
      if (!cached) await this.#parts.cache.put(key, result)
      progress = { result, key, isCached: cached !== undefined }
    }
    return progress.result
  }

  /** A cached result whose layers are still here. */
  async #usable(key: string): Promise<StepResult | undefined> {
    const found = await this.#parts.cache.get(key)
    if (!found) return undefined
    return found.layers.every((digest) => this.#parts.layers.get(digest) !== undefined) ? found : undefined
  }

  async #runStep(
    plan: BuildPlan,
    step: BuildStep,
    before: StepResult,
    number: string,
    emit: (line: BuildLine) => void,
    signal: AbortSignal,
  ): Promise<StepResult> {
    if (!touchesFiles(step)) return { ...before, context: await applyStep(step, before.context, undefined) }
    const cell = await this.#boot(plan, before, signal)
    const over = new AbortController()
    try {
      const onLine = (_stream: string, message: string): void =>
        emit({ level: 'info', message, step: number })
      const run = { cell, onLine, signal: AbortSignal.any([signal, over.signal]) }
      const context = await cell.whileAlive(applyStep(step, before.context, run))
      await writeOut(cell)
      await cell.stop()
      await cell.layOutWritten()
      return { layers: await withWritten(this.#parts.layers, before.layers, cell.upper), context }
    } finally {
      over.abort()
      await cell.release()
    }
  }

  async #boot(plan: BuildPlan, from: StepResult, signal: AbortSignal): Promise<Cell> {
    const layers = layerStack(this.#parts.layers, from.layers)
    const cellPlan: CellPlan = {
      occupant: 'build',
      engine: this.#parts.cells.engines.for(plan.isolation),
      sandboxId: `b${randomName(20)}`,
      snapshotId: plan.buildId,
      templateId: '',
      layers,
      limits: plan.limits,
      memoryDir: undefined,
      network: openPolicy,
      endAtMs: undefined,
      onEnd: 'kill',
      config: { ...from.context, startCmd: '', readyCmd: '', beforeCapture: [], limits: plan.limits },
    }
    const cell = await openCell(this.#parts.cells, cellPlan, {}, signal)
    try {
      const builds = {
        sandboxId: cellPlan.sandboxId,
        templateId: '',
        envVars: {},
        envdAccessToken: undefined,
      }
      const identity = cloneIdentity(builds, from.context)
      await cell.whileAlive(cell.agent.init(identity, AGENT_WITHIN_MS))
      return cell
    } catch (error) {
      await cell.release()
      throw error
    }
  }
}

/** What a kernel of the sandbox's own has not written to its disk yet would be lost. @throws HostError failed */
async function writeOut(cell: Cell): Promise<void> {
  const call = { method: 'POST', path: '/freeze', json: {}, timeoutMs: WRITE_OUT_WITHIN_MS } as const
  const { status, body } = await cell.whileAlive(cell.agent.send(call))
  if (status >= 300)
    throw new HostError('failed', `the files could not be written out (${status}): ${body.slice(0, 300)}`)
}

const LONGEST_TITLE = 300

const shortened = (text: string): string =>
  text.length > LONGEST_TITLE ? `${text.slice(0, LONGEST_TITLE)}…` : text
