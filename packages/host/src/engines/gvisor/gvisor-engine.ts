import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { memoryInfo } from '@sandbox/contract/meminfo'
import type { CgroupLimits } from '../../linux/cgroup.ts'
import { userNamespaceFor } from '../../linux/idmap.ts'
import { errorCode } from '../../linux/libc.ts'
import { unmountIfMounted } from '../../linux/mount.ts'
import type { Slot } from '../../slots/slots.ts'
import { snapshotSubvolumeInBackground } from '../../storage/btrfs.ts'
import { unmountRoot } from '../../storage/overlay.ts'
import type { Upper } from '../../storage/uppers.ts'
import type {
  AdoptEntry,
  CapturedState,
  CaptureTarget,
  EngineReport,
  EngineStart,
  Instance,
  Limits,
  Usage,
} from '../engine.ts'
import type { ProcessInstance } from '../instance.ts'
import { endOfLog } from '../log-end.ts'
import { prepareRoot, type RootLayers, whileMounted } from '../overlay-root.ts'
import { HOLD_COMMAND } from '../probe.ts'
import { ProcessEngine, type ProcessEngineOptions } from '../process-engine.ts'
import { NEW_NETWORK } from '../shim.ts'
import { bundleFiles } from '../slot-files.ts'
import { bytesIn } from '../written-bytes.ts'
import { bundleConfig } from './bundle.ts'
import { hostClass } from './host-class.ts'
import { continueStopped, MemoryWatch } from './memory-watch.ts'
import { probeGvisor } from './probe.ts'
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
  signalInit,
} from './runsc.ts'
import { attachNetwork, detachNetwork, fileServerNetns } from './slot-network.ts'

/** What the sentry and its file server take besides what the guest was given. */
const SENTRY_MEMORY_MIB = 64
const SENTRY_THREADS = 256
/** A process of the guest is two of the machine. */
const PROCESSES_EACH = 2
/** Taken for moments only, until a greedy process has ended. */
const RESERVE_MIB = 256
/** Tells init that memory is short; an older one takes no notice. */
const MEMORY_IS_SHORT = 'SIGURG'
const LOG_BYTES = 2_000
const STILL_WITHIN_MS = 15_000

export interface GvisorEngineOptions extends ProcessEngineOptions, RootLayers {
  agentLayer: RootLayers['agentLayer']
  runsc: Runsc
  /** First process of a sandbox. */
  initCommand: readonly string[]
  openFilesMax: number
}

const gvisorFiles = (slotDir: string) => ({
  ...bundleFiles(slotDir),
  netns: join(slotDir, 'netns'),
  runsc: join(slotDir, 'runsc.json'),
  runtime: join(slotDir, 'runsc'),
  memoryInfo: join(slotDir, 'meminfo'),
  memoryKills: join(slotDir, 'memory-kills'),
})

type GvisorFiles = ReturnType<typeof gvisorFiles>

/**
 * Sandboxes behind a kernel in user space. One sandbox is three kinds of processes in the slot's cgroups and ids: the
 * sentry, which is the kernel its programs talk to, a file server, and the programs' own address spaces. Its files lie
 * in the overlay of this machine like a container's; its memory is captured by the sentry itself.
 */
export class GvisorEngine extends ProcessEngine<GvisorFiles, GvisorEngineOptions> {
  readonly name = 'gvisor'
  readonly writtenIn = 'upper'
  readonly canCapture = true
  protected readonly filesIn = gvisorFiles
  /** By the index of their slot. */
  readonly #memoryWatches = new Map<number, MemoryWatch>()
  /** Slots whose sandbox is about to stand still although nobody waits for it any more. */
  readonly #latePauses = new Set<number>()

  constructor(options: GvisorEngineOptions) {
    super(options)
    mkdirSync(join(options.runDir, 'runsc'), { recursive: true, mode: 0o711 })
  }

  probe(): Promise<EngineReport> {
    const holding = new GvisorEngine({ ...this.options, initCommand: HOLD_COMMAND })
    return probeGvisor({ ...this.options, engine: holding })
  }

  hostClass(agentDigest = this.agentDigest): string {
    return hostClass(this.options.runsc, agentDigest)
  }

  async start(start: EngineStart): Promise<ProcessInstance> {
    const { slot, upper, limits } = start
    const files = this.vacate(slot)
    this.limit(slot, withSentry(limits))
    const root = await prepareRoot(start, this.options)
    if (start.memoryDir === undefined) keepTmpOnDisk(upper)
    const instance = await this.launch(start, (shim) =>
      whileMounted(root, this.directory(slot), async () => {
        this.#writeConfig(start, files)
        if (hasNetwork(slot)) await attachNetwork(slot, files.netns)
        return await shim.start({
          id: start.sandboxId,
          cgroupPaths: slot.cgroupPaths,
          // runsc has the sentry answer for as much memory as it finds there: sysinfo(2) is true of the sandbox.
          binds: [{ from: files.memoryInfo, to: '/proc/meminfo' }],
          sandbox: { pidFile: files.pid, startedFile: files.started, exitFile: files.exit },
          program: this.#program(start, files),
        })
      }),
    )
    this.#watchMemory(instance, limits)
    return instance
  }

  /**
   * The sentry is paused for the whole of it, so that what is written of the memory, the copy of the files and what
   * `whileStill` keeps are of one moment.
   */
  async capture(instance: Instance, into: CaptureTarget): Promise<CapturedState> {
    const runsc = this.#runscOf(instance.slot)
    if (into.memoryDir !== undefined && runsc.version !== this.options.runsc.version)
      throw new Error(`memory of runsc ${runsc.version} cannot be restored any more: keep the files alone`)
    const places = this.#places(instance.slot)
    // Frozen from outside it would not answer.
    await this.thaw(instance)
    await this.#standStill(instance.slot)
    let isOver = false
    try {
      let sizeBytes = 0
      if (into.memoryDir !== undefined) {
        await checkpoint(runsc, places, into.memoryDir)
        sizeBytes = bytesIn(into.memoryDir)
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

  override async adopt(entry: AdoptEntry): Promise<ProcessInstance | undefined> {
    const instance = await super.adopt(entry)
    if (!instance) return undefined
    const { slot } = entry
    await userNamespaceFor(slot.uidBase)
    this.cgroup(slot).thaw()
    continueStopped(this.cgroup(slot))
    this.#watchMemory(instance, entry.limits)
    await this.#goOn(slot).catch(() => {})
    return instance
  }

  /** What does not run needs no watch. */
  override async freeze(instance: Instance): Promise<void> {
    this.#memoryWatches.get(instance.slot.index)?.stop()
    await super.freeze(instance)
  }

  override async thaw(instance: Instance): Promise<void> {
    await super.thaw(instance)
    this.#memoryWatches.get(instance.slot.index)?.start()
  }

  override async usage(instance: Instance): Promise<Usage> {
    const usage = await super.usage(instance)
    const ended = this.#memoryWatches.get(instance.slot.index)?.kills ?? 0
    return { ...usage, oomKills: usage.oomKills + ended }
  }

  protected override async ended(own: ProcessInstance): Promise<void> {
    // The file server would end a little later by itself.
    for (const pid of this.cgroup(own.slot).pids()) killIfThere(pid)
    await Promise.all([super.ended(own), this.detach(own.slot)])
  }

  /** Whichever of its processes the kernel chose, the sandbox ends with it. */
  protected override endsByMemory(): boolean {
    return true
  }

  protected async detach(slot: Slot): Promise<void> {
    this.#memoryWatches.get(slot.index)?.stop()
    this.#memoryWatches.delete(slot.index)
    unmountRoot(this.directory(slot))
    if (hasNetwork(slot)) await detachNetwork(slot, this.files(slot).netns)
  }

  protected override removeFiles(slot: Slot): void {
    unmountIfMounted(this.files(slot).netns)
    super.removeFiles(slot)
  }

  protected lastWords({ slot }: EngineStart): string {
    return `: ${endOfLog(this.files(slot).log, LOG_BYTES) || 'it wrote no log'}`
  }

  /**
   * It waits for what tasks have under way on this machine, which may take long where the disk is slow. Cut off then, it
   * would leave a sandbox that stands still without runsc knowing: a late one is refused, and undone once it has come.
   */
  async #standStill(slot: Slot): Promise<void> {
    const [runsc, places] = [this.#runscOf(slot), this.#places(slot)]
    if (this.#latePauses.has(slot.index))
      throw new Error('it has not stood still yet since it was asked before')
    const pausing = pause(runsc, places)
    const timer = new AbortController()
    const late = delay(STILL_WITHIN_MS, 'late', { signal: timer.signal })
    try {
      if ((await Promise.race([pausing, late])) !== 'late') return
    } finally {
      timer.abort()
    }
    this.#latePauses.add(slot.index)
    pausing
      .then(() => resume(runsc, places))
      .catch(() => {})
      .finally(() => this.#latePauses.delete(slot.index))
    throw new Error(`it did not stand still within ${STILL_WITHIN_MS} ms: try again when it writes less`)
  }

  /** A capture may have been under way. What cannot be asked, as its runsc is gone, runs all the same. */
  async #goOn(slot: Slot): Promise<void> {
    const [runsc, places] = [this.#runscOf(slot), this.#places(slot)]
    if (await isPaused(runsc, places)) await resume(runsc, places)
  }

  #watchMemory({ slot, initPid }: Instance, limits: Limits): void {
    const watch = new MemoryWatch({
      cgroup: this.cgroup(slot),
      limitMib: limits.memoryMib + SENTRY_MEMORY_MIB,
      kernelPid: initPid,
      killsFile: this.files(slot).memoryKills,
      relieve: () => signalInit(this.#runscOf(slot), this.#places(slot), MEMORY_IS_SHORT),
    })
    this.#memoryWatches.set(slot.index, watch)
    watch.start()
  }

  #writeConfig({ slot, hostname, limits }: EngineStart, files: GvisorFiles): void {
    const { runsc, initCommand, openFilesMax } = this.options
    const config = bundleConfig({
      rootPath: join(this.directory(slot), 'root'),
      netnsPath: hasNetwork(slot) ? files.netns : undefined,
      hostname,
      sharedMemoryMib: Math.ceil(limits.memoryMib / 2),
      uidBase: slot.uidBase,
      initCommand,
      openFilesMax,
    })
    writeFileSync(files.config, JSON.stringify(config), { mode: 0o600 })
    writeFileSync(files.runsc, JSON.stringify(runsc))
    const totalKib = limits.memoryMib * 1024
    writeFileSync(files.memoryInfo, memoryInfo({ totalKib, freeKib: totalKib }))
  }

  #program({ slot, memoryDir }: EngineStart, files: GvisorFiles): string[] {
    const { runsc, runDir } = this.options
    const start = {
      ...this.#places(slot),
      bundleDir: this.directory(slot),
      pidFile: files.pid,
      fileServerNetns: fileServerNetns(join(runDir, 'runsc')),
    }
    return memoryDir === undefined ? bootProgram(runsc, start) : restoreProgram(runsc, start, memoryDir)
  }

  /** The binary that a sandbox runs on: after an upgrade those that were adopted still have the one before. */
  #runscOf(slot: Slot): Runsc {
    return JSON.parse(readFileSync(this.files(slot).runsc, 'utf8')) as Runsc
  }

  #places(slot: Slot): RunscPlaces {
    return runscPlaces(this.directory(slot))
  }
}

const hasNetwork = ({ netnsPath }: Slot): boolean => netnsPath !== NEW_NETWORK

/** The last wall, which ends the sandbox. Before it stand the sentry's own limit of processes and the memory watch. */
const withSentry = (limits: Limits): CgroupLimits => ({
  ...limits,
  memoryMib: limits.memoryMib + SENTRY_MEMORY_MIB + RESERVE_MIB,
  memorySlowMib: limits.memoryMib + SENTRY_MEMORY_MIB,
  pids: limits.pids * PROCESSES_EACH + SENTRY_THREADS,
})

/** runsc puts a tmpfs on an empty `/tmp`, whose content would be kept in memory snapshots and lost with the memory. */
function keepTmpOnDisk({ path }: Upper): void {
  const marker = join(path, 'upper', 'tmp/.disk')
  rmSync(marker, { recursive: true, force: true })
  writeFileSync(marker, '', { flag: 'wx' })
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if (errorCode(error) !== 'ESRCH') throw error
  }
}
