import { chmodSync, existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Cgroup, CgroupLimits } from '../linux/cgroup.ts'
import type { CgroupRoot } from '../linux/cgroup-root.ts'
import { alive } from '../linux/process.ts'
import type { Slot } from '../slots/slots.ts'
import type {
  AdoptEntry,
  CapturedState,
  CaptureTarget,
  Engine,
  EngineName,
  EngineReport,
  EngineStart,
  Instance,
  Usage,
} from './engine.ts'
import { ProcessInstance, readStarted, watchExit, within, writeStarted } from './instance.ts'
import { MemoryKills } from './memory-kills.ts'
import type { ProbeSpace } from './probe.ts'
import { Shim, type StartedInit } from './shim.ts'
import type { ShimFiles } from './slot-files.ts'

/** A process is gone 5 to 20 ms after its kill; only a kernel in trouble takes this long. */
const STOP_WITHIN_MS = 5_000
const SIGKILL_STATUS = -9

export interface ProcessEngineOptions {
  /** On tmpfs; `slots/<index>` in it belongs to a slot. Directories on the way must let others pass (0711). */
  runDir: string
  /** See native/build.ts. */
  shimPath: string
  cgroups: CgroupRoot
  /** The agent's own layer, the topmost of every sandbox. */
  agentLayer: { readonly digest: string }
  probe: ProbeSpace
}

/**
 * What all engines do the same: a sandbox is one process under a shim, in the cgroups and the directory of its slot, and
 * ends with that process. Which program it is, what it needs around it and how its memory is captured is each engine's
 * own.
 */
export abstract class ProcessEngine<Files extends ShimFiles, Options extends ProcessEngineOptions>
  implements Engine
{
  abstract readonly name: EngineName
  abstract readonly canCapture: boolean
  abstract readonly writtenIn: Engine['writtenIn']
  protected readonly options: Options
  /** Started ahead, by the index of their slot. */
  readonly #shims = new Map<number, Shim>()
  readonly #memoryKills = new MemoryKills()
  /** By the process of the sandbox: its slot may be another's when it is stopped once more. */
  readonly #stops = new WeakMap<StartedInit, Promise<void>>()

  constructor(options: Options) {
    this.options = options
    for (const dir of [options.runDir, join(options.runDir, 'slots')]) makeOpenDirectory(dir)
  }

  abstract probe(): Promise<EngineReport>
  abstract hostClass(agentDigest?: string): string
  /** By `vacate`, `limit` and `launch`, in this order. */
  abstract start(start: EngineStart): Promise<ProcessInstance>
  abstract capture(instance: Instance, into: CaptureTarget): Promise<CapturedState>

  /** Paths of everything that an engine keeps of a sandbox in the slot's directory. */
  protected abstract readonly filesIn: (slotDir: string) => Files
  /** Takes away what the engine attached to a slot besides files. Idempotent, whatever of it was ever there. */
  protected abstract detach(slot: Slot): Promise<void>
  /** Why a start failed or a sandbox ended, as the end of a sentence; empty when nothing is known. */
  protected abstract lastWords(start: Pick<EngineStart, 'slot' | 'upper'>): string

  get agentDigest(): string {
    return this.options.agentLayer.digest
  }

  async prepare(slot: Slot): Promise<void> {
    if (!this.#shims.get(slot.index)?.usable) this.#shims.set(slot.index, new Shim(this.options.shimPath))
  }

  memoryClass(_instance: Instance, agentDigest?: string): string {
    return this.hostClass(agentDigest)
  }

  restores(memoryClass: string, agentDigest?: string): boolean {
    return memoryClass === this.hostClass(agentDigest)
  }

  async freeze(instance: Instance): Promise<void> {
    await this.cgroup(instance.slot).freeze()
  }

  async thaw(instance: Instance): Promise<void> {
    this.cgroup(instance.slot).thaw()
  }

  async rename(instance: Instance, sandboxId: string): Promise<ProcessInstance> {
    const own = ownProcess(instance)
    writeStarted(this.files(instance.slot).started, { ...own.init, sandboxId })
    return own.renamed(sandboxId)
  }

  async stop(instance: Instance): Promise<void> {
    const own = ownProcess(instance)
    const stopping = this.#stops.get(own.init) ?? this.#end(own)
    this.#stops.set(own.init, stopping)
    try {
      await stopping
    } catch (error) {
      this.#stops.delete(own.init)
      throw error
    }
  }

  /** Where the upper is what the sandbox's overlay writes to, it lies there. */
  async layOutWritten(_stopped: Instance): Promise<void> {}

  async adopt({ sandboxId, slot, upper, initPid }: AdoptEntry): Promise<ProcessInstance | undefined> {
    const started = readStarted(this.files(slot).started)
    if (!started || !alive(started.pid, started.startTime)) {
      // It has ended, or its start was cut off.
      await this.#clear(slot)
      return undefined
    }
    // A rename may have been cut between the two records; the pid says that it is the same sandbox.
    if (started.sandboxId !== sandboxId && started.pid !== initPid) return undefined
    return this.#instance({ sandboxId, slot, upper }, started)
  }

  async usage(instance: Instance): Promise<Usage> {
    return this.cgroup(instance.slot).usage()
  }

  /** Makes the slot's directory and removes what the last sandbox left in it. */
  protected vacate(slot: Slot): Files {
    this.removeFiles(slot)
    makeOpenDirectory(this.directory(slot))
    return this.files(slot)
  }

  /** From here on counts what the kernel kills of the sandbox for its memory. */
  protected limit(slot: Slot, limits: CgroupLimits): void {
    const cgroup = this.cgroup(slot)
    cgroup.setLimits(limits)
    // A capture that was cut off may have left it frozen.
    cgroup.thaw()
    this.#memoryKills.begin(slot.index, cgroup)
  }

  /** Has `begin` start the process by the slot's shim. When that throws, nothing of the sandbox is left in the slot. */
  protected async launch(
    start: Pick<EngineStart, 'sandboxId' | 'slot' | 'upper'>,
    begin: (shim: Shim) => Promise<StartedInit>,
  ): Promise<ProcessInstance> {
    const shim = this.#takeShim(start.slot)
    try {
      return this.#instance(start, await begin(shim), shim.ended())
    } catch (error) {
      shim.discard()
      await this.cgroup(start.slot).killAll()
      // What it writes about the end comes before the slot is another's.
      await within(shim.ended(), STOP_WITHIN_MS).catch(() => {})
      const said = this.lastWords(start)
      await this.#clear(start.slot)
      const reason = error instanceof Error ? error.message : String(error)
      throw new Error(`sandbox ${start.sandboxId} did not start: ${reason}${said}`, { cause: error })
    }
  }

  /** Waits for the end of a process that was killed. */
  protected async ended(own: ProcessInstance, withinMs = STOP_WITHIN_MS): Promise<void> {
    await within(own.exited, withinMs)
  }

  /** Whether a sandbox of which the kernel killed something for its memory has ended by that. */
  protected endsByMemory(status: number | undefined): boolean {
    return status === SIGKILL_STATUS
  }

  protected removeFiles(slot: Slot): void {
    for (const path of Object.values(this.files(slot))) rmSync(path, { recursive: true, force: true })
  }

  protected files(slot: Slot): Files {
    return this.filesIn(this.directory(slot))
  }

  protected directory(slot: Slot): string {
    return join(this.options.runDir, 'slots', String(slot.index))
  }

  protected cgroup(slot: Slot): Cgroup {
    return this.options.cgroups.cgroup(String(slot.index))
  }

  async #end(own: ProcessInstance): Promise<void> {
    const cgroup = this.cgroup(own.slot)
    own.kill()
    // A frozen process takes no signal on cgroup v1.
    if (existsSync(cgroup.paths[0]!)) cgroup.thaw()
    await this.ended(own)
    await this.#clear(own.slot)
  }

  /** Whatever there is of a sandbox in a slot, also of one that has never been whole. Idempotent. */
  async #clear(slot: Slot): Promise<void> {
    const cgroup = this.cgroup(slot)
    if (cgroup.pids().length > 0) await cgroup.killAll()
    await this.detach(slot)
    this.removeFiles(slot)
    this.#memoryKills.forget(slot.index)
  }

  #instance(
    { sandboxId, slot, upper }: Pick<Instance, 'sandboxId' | 'slot' | 'upper'>,
    init: StartedInit,
    shimEnded?: Promise<void>,
  ): ProcessInstance {
    const exited = watchExit(this.files(slot).exit, init, shimEnded).then((status) => ({
      status,
      outOfMemory: this.endsByMemory(status) && this.#memoryKills.happened(slot.index, this.cgroup(slot)),
      ...(status === SIGKILL_STATUS ? {} : { lastWords: this.lastWords({ slot, upper }) }),
    }))
    return new ProcessInstance({ sandboxId, slot, upper, init, exited })
  }

  #takeShim(slot: Slot): Shim {
    const prepared = this.#shims.get(slot.index)
    this.#shims.delete(slot.index)
    return prepared?.usable ? prepared : new Shim(this.options.shimPath)
  }
}

/** @throws TypeError when the instance belongs to an engine of another kind */
export function ownProcess(instance: Instance): ProcessInstance {
  if (instance instanceof ProcessInstance) return instance
  throw new TypeError('the instance belongs to another engine')
}

/** Others may pass, and see nothing. */
export function makeOpenDirectory(path: string): void {
  mkdirSync(path, { recursive: true })
  chmodSync(path, 0o711)
}
