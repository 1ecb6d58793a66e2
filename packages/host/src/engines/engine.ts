import type { Slot } from '../slots/slots.ts'
import type { Layer } from '../storage/layers.ts'
import type { Upper } from '../storage/uppers.ts'

/** What one kind of wall promises to the rest of the host. Nothing outside `engines/` asks which kind it is. */
export interface Engine {
  readonly name: EngineName
  /** False where this machine lacks what captures memory: every start boots then. */
  readonly canCapture: boolean
  /**
   * Where what a sandbox wrote is found after a capture. `upper`: as a tree of files in `upper.path/upper`, in overlay's
   * form with ids as the guest sees them, so that it becomes a layer. `memory`: `capture` keeps the written disk in
   * `memoryDir`, and a start from it with an empty upper begins with that disk.
   */
  readonly writtenIn: 'upper' | 'memory'
  /** Really boots something; never trusts a device file. Ends within 10 s. */
  probe(): Promise<EngineReport>
  /**
   * What a memory snapshot of this engine fits: engine, its version, kernel, CPU features, agent layer (the engine's
   * own, unless another is named).
   * Two hosts of one class can exchange memory snapshots.
   */
  hostClass(agentDigest?: string): string
  /**
   * What the memory of one running sandbox fits once it is captured. As `hostClass`, but for what such memory brings
   * along or its sandbox has had since before an upgrade.
   */
  memoryClass(instance: Instance, agentDigest?: string): string
  /** Whether memory of a class that `memoryClass` once answered can be restored here, on a layer of its agent. */
  restores(memoryClass: string, agentDigest?: string): boolean
  /** Digest of the agent's layer of new starts. Undefined where no older one can be restored. */
  readonly agentDigest?: string
  /** Starts what the next sandbox of a slot will need, ahead of it. Idempotent. */
  prepare(slot: Slot): Promise<void>
  /** Restores memory if `start.memoryDir` is given, else boots the layers cold. Answers when the init process runs. */
  start(start: EngineStart): Promise<Instance>
  /**
   * Writes the memory of a running instance into `into.memoryDir` (which exists and is empty).
   * With `leaveRunning` the instance goes on; otherwise it is gone afterwards, its upper whole and as it was when the
   * memory was written: nothing runs once more in between. When it throws before that, the instance goes on.
   */
  capture(instance: Instance, into: CaptureTarget): Promise<CapturedState>
  freeze(instance: Instance): Promise<void>
  thaw(instance: Instance): Promise<void>
  /** Gives an instance that was started ahead under another name its own: host name inside, `sandboxId` outside. */
  rename(instance: Instance, sandboxId: string): Promise<Instance>
  /** Idempotent; leaves no process and no mount. The slot and the upper go back to their owners. */
  stop(instance: Instance): Promise<void>
  /**
   * After `stop`, in the slot that it still has: what the instance wrote lies in `upper.path/upper`, as a tree of files
   * in overlay's form with ids as the guest sees them. Nothing starts on this upper any more.
   * @throws Error when what was written is no tree that a layer can have
   */
  layOutWritten(instance: Instance): Promise<void>
  /** After a restart of the daemon: the instance of a journal entry if it still runs. */
  adopt(entry: AdoptEntry): Promise<Instance | undefined>
  usage(instance: Instance): Promise<Usage>
}

/** Strongest wall first. */
export const ENGINE_NAMES = ['microvm', 'gvisor', 'container'] as const
export type EngineName = (typeof ENGINE_NAMES)[number]

export interface EngineReport {
  usable: boolean
  version: string
  /** How it runs, or why it does not. */
  detail: string
  /** One command or setting that would make it usable or faster; empty when nothing is missing. */
  remedy: string
}

export interface Limits {
  cpuCount: number
  memoryMib: number
  diskMib: number
  pids: number
}

export interface EngineStart {
  sandboxId: string
  slot: Slot
  /** Bottom to top, without the agent's own layer. */
  layers: readonly Layer[]
  upper: Upper
  limits: Limits
  hostname: string
  /** A directory made by `capture` on a host of the same class, or undefined for a cold boot. */
  memoryDir: string | undefined
  /** The agent's layer that the memory was captured with; undefined is the engine's own. */
  agentLayer?: Layer | undefined
}

export interface CaptureTarget {
  /** Undefined keeps no memory: the instance only stands still meanwhile. */
  memoryDir: string | undefined
  leaveRunning: boolean
  /** With memory: where a read-only copy of the instance's upper is made that fits it. */
  upperCopyPath?: string
  /**
   * Runs when the memory is written and nothing has moved since: the moment to keep the files as well. When it throws
   * the instance goes on, whatever `leaveRunning` says.
   */
  whileStill?: (captured: CapturedState) => Promise<void>
}

export interface CapturedState {
  sizeBytes: number
}

export interface Instance {
  readonly sandboxId: string
  readonly slot: Slot
  readonly upper: Upper
  /** Host pid of the sandbox's init process. */
  readonly initPid: number
  /** Resolves once, when the init process is gone, however that came. */
  readonly exited: Promise<InstanceExit>
}

export interface InstanceExit {
  /** Exit status of init, or -signal; undefined when unknown (adopted and ended while no daemon ran). */
  status: number | undefined
  outOfMemory: boolean
  /** What its program said last, for the log; absent where it was killed. */
  lastWords?: string
}

/** What the journal keeps of an instance, enough to find it again. */
export interface AdoptEntry {
  sandboxId: string
  slot: Slot
  upper: Upper
  layers: readonly Layer[]
  limits: Limits
  initPid: number | undefined
}

export interface Usage {
  cpuUsec: number
  memoryBytes: number
  memoryCacheBytes: number
  pids: number
  oomKills: number
}
