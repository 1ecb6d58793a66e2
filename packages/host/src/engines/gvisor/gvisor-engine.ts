import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import type { Cgroup, CgroupRoot } from '../../linux/cgroup.ts'
import { userNamespaceFor } from '../../linux/idmap.ts'
import { errorCode } from '../../linux/libc.ts'
import { unmountIfMounted } from '../../linux/mount.ts'
import { alive } from '../../linux/process.ts'
import { idsPerSlot, type Slot } from '../../slots.ts'
import { snapshotSubvolumeInBackground } from '../../storage/btrfs.ts'
import { mountRoot, unmountRoot } from '../../storage/overlay.ts'
import type { Upper } from '../../storage/uppers.ts'
import { prepareBootFiles } from '../container/boot-files.ts'
import { BOOT_ID_FILE, MEMORY_INFO_FILE } from '../container/bundle.ts'
import type {
  AdoptEntry,
  CapturedState,
  CaptureTarget,
  Engine,
  EngineReport,
  EngineStart,
  Instance,
  Usage,
} from '../engine.ts'
import { ProcessInstance, readStarted, watchExit, within, writeStarted } from '../instance.ts'
import { MemoryKills } from '../memory-kills.ts'
import { NEW_NETWORK, Shim, type StartedInit } from '../shim.ts'
import { bundleConfig } from './bundle.ts'
import { hostClass } from './host-class.ts'
import { type InstanceFiles, instanceFiles } from './instance-files.ts'
import { HOLD_COMMAND, PROBE_SLOT, probeGvisor } from './probe.ts'
import {
  bootProgram,
  checkpoint,
  isPaused,
  pause,
  type Runsc,
  type RunscPlaces,
  restoreProgram,
  resume,
  runscPlaces,
} from './runsc.ts'
import { attachNetwork, detachNetwork } from './slot-network.ts'

const stopTimeoutMs = 5_000
/** What the sentry and its file server take besides what the guest was given. */
const SENTRY_MEMORY_MIB = 64
const SENTRY_THREADS = 256
const LOG_BYTES = 2_000

export interface GvisorEngineOptions {
  /** On tmpfs; `slots/<index>` in it belongs to a slot. Directories on the way must let others pass (0711). */
  runDir: string
  /** See native/build.ts. */
  shimPath: string
  runsc: Runsc
  /** The agent's own layer: its digest, and where it is mounted. */
  agentLayer: { digest: string; path: string }
  /** Mounts a layer if need be; answers where (`LayerStore.mount`). */
  layerPath: (digest: string) => string
  cgroups: CgroupRoot
  /** First process of a sandbox. */
  initCommand: readonly string[]
  openFilesMax: number
  /** For the probe: an upper of its own and ids that no slot has. */
  probe: { take: () => Promise<Upper>; give: (upper: Upper) => Promise<void>; uidBase: number }
}

/**
 * Sandboxes behind a kernel in user space. One sandbox is three kinds of processes in the slot's cgroups and ids: the
 * sentry, which is the kernel its programs talk to, a file server, and the programs' own address spaces. Its files lie
 * in the overlay of this machine like a container's; its memory is captured by the sentry itself.
 */
export class GvisorEngine implements Engine {
  readonly name = 'gvisor'
  readonly writtenIn = 'upper'
  readonly canCapture = true
  readonly #options: GvisorEngineOptions
  readonly #memoryKills = new MemoryKills()
  readonly #shims = new Map<number, Shim>()

  constructor(options: GvisorEngineOptions) {
    this.#options = options
    for (const dir of [options.runDir, join(options.runDir, 'slots')]) {
      mkdirSync(dir, { recursive: true })
      chmodSync(dir, 0o711)
    }
    mkdirSync(join(options.runDir, 'runsc'), { recursive: true, mode: 0o711 })
  }

  async probe(): Promise<EngineReport> {
    const { probe, cgroups } = this.#options
    const upper = await probe.take()
    try {
      return await probeGvisor({
        ...this.#options,
        engine: new GvisorEngine({ ...this.#options, initCommand: HOLD_COMMAND }),
        cgroup: cgroups.cgroup(String(PROBE_SLOT)),
        upper,
        uidBase: probe.uidBase,
      })
    } finally {
      rmSync(this.#slotDir({ index: PROBE_SLOT }), { recursive: true, force: true })
      await probe.give(upper)
    }
  }

  get agentDigest(): string {
    return this.#options.agentLayer.digest
  }

  hostClass(agentDigest = this.agentDigest): string {
    return hostClass(this.#options.runsc, agentDigest)
  }

  async prepare(slot: Slot): Promise<void> {
    if (!this.#shims.get(slot.index)?.usable) this.#shims.set(slot.index, new Shim(this.#options.shimPath))
  }

  async start(start: EngineStart): Promise<ProcessInstance> {
    const { slot, upper, limits } = start
    const dir = this.#slotDir(slot)
    const files = instanceFiles(dir)
    unmountIfMounted(files.netns)
    removeInstanceFiles(files)
    mkdirSync(dir, { recursive: true })
    chmodSync(dir, 0o711)
    const cgroup = this.#cgroup(slot)
    cgroup.setLimits({
      ...limits,
      memoryMib: limits.memoryMib + SENTRY_MEMORY_MIB,
      pids: limits.pids + SENTRY_THREADS,
    })
    cgroup.thaw()
    this.#memoryKills.begin(slot.index, cgroup)
    const layerPaths = start.layers.map((layer) => this.#options.layerPath(layer.digest))
    if (start.memoryDir === undefined) prepareFiles(upper, layerPaths, limits.memoryMib)
    const usernsFd = await userNamespaceFor(slot.uidBase)
    const hasNetwork = slot.netnsPath !== NEW_NETWORK
    const shim = this.#takeShim(slot)
    let init: StartedInit
    try {
      const { agentLayer: own, layerPath } = this.#options
      const agentLayerPath = start.agentLayer ? layerPath(start.agentLayer.digest) : own.path
      mountRoot({ layerPaths, agentLayerPath, upper, usernsFd, dir })
      this.#writeConfig(start, files)
      if (hasNetwork) await attachNetwork(slot, files.netns)
      init = await shim.start({
        id: start.sandboxId,
        cgroupPaths: slot.cgroupPaths,
        sandbox: { pidFile: files.pid, startedFile: files.started, exitFile: files.exit },
        program: this.#program(start, files),
      })
    } catch (error) {
      shim.discard()
      await cgroup.killAll()
      const log = tail(files.log)
      if (hasNetwork) await detachNetwork(slot, files.netns)
      removeInstanceFiles(files)
      const reason = error instanceof Error ? error.message : String(error)
      throw new Error(`sandbox ${start.sandboxId} did not start: ${reason}: ${log}`, { cause: error })
    } finally {
      // The file server has its own mount of it; without this one nothing has to be undone when it ends.
      unmountRoot(dir)
    }
    return this.#instance(start.sandboxId, slot, upper, init, shim.ended())
  }

  /**
   * The sentry is paused for the whole of it, so that what is written of the memory, the copy of the files and what
   * `whileStill` keeps are of one moment.
   */
  async capture(instance: Instance, into: CaptureTarget): Promise<CapturedState> {
    const runsc = this.#runscOf(instance.slot)
    if (into.memoryDir !== undefined && runsc.version !== this.#options.runsc.version)
      throw new Error(`memory of runsc ${runsc.version} cannot be restored any more: keep the files alone`)
    const places = this.#places(instance.slot)
    const cgroup = this.#cgroup(instance.slot)
    cgroup.thaw()
    await pause(runsc, places)
    let isOver = false
    try {
      let sizeBytes = 0
      if (into.memoryDir !== undefined) {
        await checkpoint(runsc, places, into.memoryDir)
        sizeBytes = sizeOf(into.memoryDir)
        if (into.upperCopyPath !== undefined)
          await snapshotSubvolumeInBackground(instance.upper.path, into.upperCopyPath, { readOnly: true })
      }
      await into.whileStill?.({ sizeBytes })
      isOver = !into.leaveRunning
      return { sizeBytes }
    } finally {
      if (isOver) await this.stop(instance)
      else await resume(runsc, places)
    }
  }

  /** Outside the sentry, so that waking takes no command: a frozen one answers a millisecond after its thaw. */
  freeze(instance: Instance): Promise<void> {
    return this.#cgroup(instance.slot).freeze()
  }

  async thaw(instance: Instance): Promise<void> {
    this.#cgroup(instance.slot).thaw()
  }

  /** The agent sets the host name inside when it is told who it is. */
  async rename(instance: Instance, sandboxId: string): Promise<ProcessInstance> {
    const own = owned(instance)
    writeStarted(instanceFiles(this.#slotDir(instance.slot)).started, { ...own.init, sandboxId })
    return own.renamed(sandboxId)
  }

  async stop(instance: Instance): Promise<void> {
    const own = owned(instance)
    const { slot } = instance
    const dir = this.#slotDir(slot)
    const cgroup = this.#cgroup(slot)
    own.kill()
    // A frozen process takes no signal on cgroup v1.
    if (existsSync(cgroup.paths[0]!)) cgroup.thaw()
    // The file server would end a little later by itself.
    for (const pid of cgroup.pids()) killIfThere(pid)
    const files = instanceFiles(dir)
    const hasNetwork = slot.netnsPath !== NEW_NETWORK
    await Promise.all([
      within(own.exited, stopTimeoutMs),
      hasNetwork ? detachNetwork(slot, files.netns) : undefined,
    ])
    await cgroup.killAll()
    unmountRoot(dir)
    removeInstanceFiles(files)
    this.#memoryKills.forget(slot.index)
  }

  async adopt(entry: AdoptEntry): Promise<ProcessInstance | undefined> {
    const { slot } = entry
    const files = instanceFiles(this.#slotDir(slot))
    const started = readStarted(files.started)
    const isOurs = started && (started.sandboxId === entry.sandboxId || started.pid === entry.initPid)
    if (!isOurs || !alive(started.pid, started.startTime)) {
      await this.#undo(slot, files)
      return undefined
    }
    await userNamespaceFor(slot.uidBase)
    const instance = this.#instance(entry.sandboxId, slot, entry.upper, started)
    const cgroup = this.#cgroup(slot)
    cgroup.thaw()
    // A capture may have been under way.
    const runsc = this.#runscOf(slot)
    if (await isPaused(runsc, this.#places(slot))) await resume(runsc, this.#places(slot))
    return instance
  }

  async usage(instance: Instance): Promise<Usage> {
    return this.#cgroup(instance.slot).usage()
  }

  /** A start that was cut off: the slot is left as it was before it. */
  async #undo(slot: Slot, files: InstanceFiles): Promise<void> {
    await this.#cgroup(slot).killAll()
    unmountRoot(this.#slotDir(slot))
    await detachNetwork(slot, files.netns)
    removeInstanceFiles(files)
  }

  #instance(
    sandboxId: string,
    slot: Slot,
    upper: Upper,
    init: StartedInit,
    shimEnded?: Promise<void>,
  ): ProcessInstance {
    const dir = this.#slotDir(slot)
    const exited = watchExit(instanceFiles(dir).exit, init, shimEnded).then((status) => ({
      status,
      // Whichever of its processes the kernel chose, the sandbox ends with it.
      outOfMemory: this.#memoryKills.happened(slot.index, this.#cgroup(slot)),
    }))
    return new ProcessInstance({ sandboxId, slot, upper, init, exited })
  }

  #writeConfig(start: EngineStart, files: InstanceFiles): void {
    const { slot, hostname } = start
    const config = bundleConfig({
      rootPath: join(this.#slotDir(slot), 'root'),
      bootIdFile: BOOT_ID_FILE,
      memoryInfoFile: MEMORY_INFO_FILE,
      netnsPath: slot.netnsPath === NEW_NETWORK ? undefined : files.netns,
      hostname,
      uidBase: slot.uidBase,
      idCount: idsPerSlot,
      initCommand: this.#options.initCommand,
      openFilesMax: this.#options.openFilesMax,
    })
    writeFileSync(files.config, JSON.stringify(config), { mode: 0o600 })
    writeFileSync(files.runsc, JSON.stringify(this.#options.runsc))
  }

  #program(start: EngineStart, files: InstanceFiles): string[] {
    const { runsc } = this.#options
    const places = this.#places(start.slot)
    const bundleDir = this.#slotDir(start.slot)
    return start.memoryDir === undefined
      ? bootProgram(runsc, places, bundleDir, files.pid)
      : restoreProgram(runsc, places, bundleDir, files.pid, start.memoryDir)
  }

  /** The binary that a sandbox runs on: after an upgrade those that were adopted still have the one before. */
  #runscOf(slot: Slot): Runsc {
    return JSON.parse(readFileSync(instanceFiles(this.#slotDir(slot)).runsc, 'utf8')) as Runsc
  }

  #takeShim(slot: Slot): Shim {
    const prepared = this.#shims.get(slot.index)
    this.#shims.delete(slot.index)
    return prepared?.usable ? prepared : new Shim(this.#options.shimPath)
  }

  #places(slot: Slot): RunscPlaces {
    return runscPlaces(this.#options.runDir, this.#slotDir(slot))
  }

  #slotDir(slot: Pick<Slot, 'index'>): string {
    return join(this.#options.runDir, 'slots', String(slot.index))
  }

  #cgroup(slot: Slot): Cgroup {
    return this.#options.cgroups.cgroup(String(slot.index))
  }
}

/** runsc puts a tmpfs on an empty `/tmp`, whose content would be kept in memory snapshots and lost with the memory. */
const NOT_EMPTY = 'tmp/.disk'

function prepareFiles(upper: Upper, layerPaths: readonly string[], memoryMib: number): void {
  prepareBootFiles(upper.path, layerPaths, memoryMib)
  const marker = join(upper.path, 'upper', NOT_EMPTY)
  rmSync(marker, { recursive: true, force: true })
  writeFileSync(marker, '', { flag: 'wx' })
}

function owned(instance: Instance): ProcessInstance {
  if (instance instanceof ProcessInstance) return instance
  throw new TypeError('the instance belongs to another engine')
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if (errorCode(error) !== 'ESRCH') throw error
  }
}

function removeInstanceFiles(files: InstanceFiles): void {
  for (const path of Object.values(files)) rmSync(path, { recursive: true, force: true })
}

const sizeOf = (dir: string): number =>
  readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0)

/** The end of what runsc said. */
function tail(path: string): string {
  return existsSync(path) ? readFileSync(path, 'utf8').trim().slice(-LOG_BYTES) : 'it wrote no log'
}
