import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Cgroup, CgroupRoot } from '../../linux/cgroup.ts'
import { userNamespaceFor } from '../../linux/idmap.ts'
import { MS_RDONLY, mount, unmountIfMounted } from '../../linux/mount.ts'
import { setHostname } from '../../linux/namespace.ts'
import { alive } from '../../linux/process.ts'
import type { Slot } from '../../slots.ts'
import { mountRoot, unmountRoot } from '../../storage/overlay.ts'
import type { Upper } from '../../storage/uppers.ts'
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
import { NEW_NETWORK, Shim, type ShimCommand, type StartedInit } from '../shim.ts'
import { favourAgent, unfavourAgent } from './agent-priority.ts'
import { prepareBootFiles } from './boot-files.ts'
import { bundleConfig } from './bundle.ts'
import { type Criu, dumpCommand, logTail, restoreProgram } from './checkpoint.ts'
import { prepareDevices } from './devices.ts'
import { hostClass } from './host-class.ts'
import { writeOwnImages } from './images.ts'
import { type InstanceFiles, instanceFiles } from './instance-files.ts'
import { HOLD_COMMAND, PROBE_SLOT, probeContainer } from './probe.ts'
import { freeingStopped, untraced } from './tracing.ts'

/** Killing an init takes 5 to 20 ms; only a kernel in trouble takes this long. */
const stopTimeoutMs = 5_000

export interface ContainerEngineOptions {
  /** On tmpfs; `slots/<index>` in it belongs to a slot. Directories on the way must let others pass (0711). */
  runDir: string
  /** See native/build.ts. */
  shimPath: string
  crunPath: string
  /** Without one every start is a cold boot and nothing can be captured. */
  criu: Criu | undefined
  /** The agent's own layer: its digest, and where it is mounted. */
  agentLayer: { digest: string; path: string }
  /** Mounts a layer if need be; answers where (`LayerStore.mount`). */
  layerPath: (digest: string) => string
  cgroups: CgroupRoot
  /** First process of a sandbox. Must not keep the standard streams it is given. */
  initCommand: readonly string[]
  openFilesMax: number
  /** For the probe: an upper of its own and ids that no slot has. */
  probe: { take: () => Promise<Upper>; give: (upper: Upper) => Promise<void>; uidBase: number }
}

/** Sandboxes as containers: started by crun, or restored by CRIU from the memory of one that was. */
export class ContainerEngine implements Engine {
  readonly name = 'container'
  readonly writtenIn = 'upper'
  readonly #options: ContainerEngineOptions
  readonly #devicesPath: string
  readonly #shims = new Map<number, Shim>()
  readonly #memoryKills = new MemoryKills()

  constructor(options: ContainerEngineOptions) {
    this.#options = options
    this.#devicesPath = join(options.runDir, 'dev')
    for (const dir of [options.runDir, join(options.runDir, 'slots')]) {
      mkdirSync(dir, { recursive: true })
      chmodSync(dir, 0o711)
    }
    prepareDevices(this.#devicesPath)
  }

  async probe(): Promise<EngineReport> {
    const { probe, cgroups } = this.#options
    const upper = await probe.take()
    try {
      return await probeContainer({
        ...this.#options,
        engine: new ContainerEngine({ ...this.#options, initCommand: HOLD_COMMAND }),
        cgroup: cgroups.cgroup(String(PROBE_SLOT)),
        upper,
        uidBase: probe.uidBase,
      })
    } finally {
      rmSync(this.#slotDir({ index: PROBE_SLOT }), { recursive: true, force: true })
      await probe.give(upper)
    }
  }

  get canCapture(): boolean {
    return this.#options.criu !== undefined
  }

  get agentDigest(): string {
    return this.#options.agentLayer.digest
  }

  hostClass(agentDigest = this.agentDigest): string {
    return hostClass(this.#options.criu?.version, agentDigest)
  }

  async prepare(slot: Slot): Promise<void> {
    if (this.#shims.get(slot.index)?.usable) return
    this.#shims.set(slot.index, new Shim(this.#options.shimPath))
  }

  async start(start: EngineStart): Promise<ProcessInstance> {
    const { slot, upper } = start
    const dir = this.#slotDir(slot)
    const files = instanceFiles(dir)
    removeInstanceFiles(files)
    mkdirSync(dir, { recursive: true })
    chmodSync(dir, 0o711)
    const cgroup = this.#cgroup(slot)
    cgroup.setLimits(start.limits)
    // A capture that was cut off may have left it frozen.
    cgroup.thaw()
    this.#memoryKills.begin(slot.index, cgroup)
    const layerPaths = start.layers.map((layer) => this.#options.layerPath(layer.digest))
    if (start.memoryDir === undefined) prepareBootFiles(upper.path, layerPaths, start.limits.memoryMib)
    const usernsFd = await userNamespaceFor(slot.uidBase)
    const shim = this.#takeShim(slot)
    let init: StartedInit
    try {
      this.#mountRoot(start, layerPaths, usernsFd)
      const command =
        start.memoryDir === undefined
          ? this.#bootCommand(start, files)
          : this.#restoreCommand(start, files, start.memoryDir)
      init = await shim.start(command)
    } catch (error) {
      shim.discard()
      await cgroup.killAll()
      const log = logTail(files.log)
      removeInstanceFiles(files)
      const reason = error instanceof Error ? error.message : String(error)
      throw new Error(`sandbox ${start.sandboxId} did not start: ${reason}: ${log}`, { cause: error })
    } finally {
      // The sandbox has its own mount of it; without this one nothing has to be undone when it ends.
      unmountRoot(dir)
      unmountIfMounted(files.memory)
    }
    favourAgent(init.pid)
    return this.#instance(start.sandboxId, slot, upper, init, shim.ended())
  }

  async capture(instance: Instance, into: CaptureTarget): Promise<CapturedState> {
    const cgroup = this.#cgroup(instance.slot)
    await cgroup.freeze()
    try {
      // While something may still fail the processes must be able to go on; else CRIU ends them.
      const leaveRunning = into.leaveRunning || into.whileStill !== undefined
      const { memoryDir, upperCopyPath } = into
      const sizeBytes =
        memoryDir === undefined ? 0 : await this.#dump(instance, memoryDir, leaveRunning, upperCopyPath)
      await into.whileStill?.({ sizeBytes })
      // Frozen as they are: thawed with the signal pending, no process runs one more instruction of its own.
      if (!into.leaveRunning) await cgroup.killAll()
      return { sizeBytes }
    } finally {
      favourAgent(instance.initPid)
      cgroup.thaw()
      if (!into.leaveRunning && cgroup.pids().length === 0) await this.stop(instance)
    }
  }

  /** Answers the bytes written. */
  async #dump(
    instance: Instance,
    memoryDir: string,
    leaveRunning: boolean,
    upperCopyPath: string | undefined,
  ): Promise<number> {
    const { criu, runDir, shimPath } = this.#options
    if (!criu) throw new Error('there is no CRIU on this machine: memory cannot be captured')
    const files = instanceFiles(this.#slotDir(instance.slot))
    // Part of a restore reads as root of a sandbox, another user to this machine; the directories above are closed.
    chmodSync(memoryDir, 0o711)
    const command = dumpCommand({
      criu,
      runDir,
      initPid: instance.initPid,
      netnsPath: instance.slot.netnsPath,
      memoryDir,
      logPath: files.log,
      cowImagesPath: files.cowImages,
      freezerPath: this.#freezerPath(instance.slot),
      leaveRunning,
      upperCopy: upperCopyPath === undefined ? undefined : { from: instance.upper.path, to: upperCopyPath },
    })
    unfavourAgent(instance.initPid)
    const status = await freeingStopped(this.#cgroup(instance.slot), new Shim(shimPath).run(command))
    if (status !== 0) throw new Error(`memory could not be captured: ${logTail(files.log)}`)
    return sizeOf(memoryDir)
  }

  freeze(instance: Instance): Promise<void> {
    return this.#cgroup(instance.slot).freeze()
  }

  async thaw(instance: Instance): Promise<void> {
    this.#cgroup(instance.slot).thaw()
  }

  async rename(instance: Instance, sandboxId: string): Promise<ProcessInstance> {
    const container = own(instance)
    const { started } = instanceFiles(this.#slotDir(instance.slot))
    setHostname(`/proc/${instance.initPid}/ns/uts`, sandboxId)
    writeStarted(started, { ...container.init, sandboxId })
    return container.renamed(sandboxId)
  }

  async stop(instance: Instance): Promise<void> {
    const container = own(instance)
    const dir = this.#slotDir(instance.slot)
    const cgroup = this.#cgroup(instance.slot)
    container.kill()
    // A frozen process takes no signal on cgroup v1.
    if (existsSync(cgroup.paths[0]!)) cgroup.thaw()
    await within(container.exited, stopTimeoutMs)
    if (cgroup.pids().length > 0) await cgroup.killAll()
    unmountRoot(dir)
    removeInstanceFiles(instanceFiles(dir))
    this.#memoryKills.forget(instance.slot.index)
  }

  async adopt(entry: AdoptEntry): Promise<ProcessInstance | undefined> {
    const started = readStarted(instanceFiles(this.#slotDir(entry.slot)).started)
    if (!started || !alive(started.pid, started.startTime)) return undefined
    // A rename may have been cut between the two records; the pid says that it is the same sandbox.
    if (started.sandboxId !== entry.sandboxId && started.pid !== entry.initPid) return undefined
    await userNamespaceFor(entry.slot.uidBase)
    await untraced(started.pid)
    favourAgent(started.pid)
    return this.#instance(entry.sandboxId, entry.slot, entry.upper, started)
  }

  async usage(instance: Instance): Promise<Usage> {
    return this.#cgroup(instance.slot).usage()
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
      outOfMemory: status === -9 && this.#memoryKills.happened(slot.index, this.#cgroup(slot)),
    }))
    return new ProcessInstance({ sandboxId, slot, upper, init, exited })
  }

  #mountRoot(
    { slot, upper, agentLayer }: EngineStart,
    layerPaths: readonly string[],
    usernsFd: number,
  ): void {
    const { agentLayer: own, layerPath } = this.#options
    const agentLayerPath = agentLayer ? layerPath(agentLayer.digest) : own.path
    const home = process.cwd()
    // Overlay shows its paths to the guest as they were given: relative ones tell nothing of this machine.
    process.chdir(this.#slotDir(slot))
    try {
      mountRoot({ layerPaths, agentLayerPath, upper, usernsFd, dir: '.' })
    } finally {
      process.chdir(home)
    }
  }

  #bootCommand(start: EngineStart, files: InstanceFiles): ShimCommand {
    const dir = this.#slotDir(start.slot)
    const config = bundleConfig({
      rootPath: join(dir, 'root'),
      sysfsPath: start.slot.sysfsPath,
      devicesPath: this.#devicesPath,
      hostname: start.hostname,
      uidBase: start.slot.uidBase,
      initCommand: this.#options.initCommand,
      openFilesMax: this.#options.openFilesMax,
      exists: existsSync,
    })
    writeFileSync(files.config, JSON.stringify(config), { mode: 0o600 })
    return {
      ...this.#sandboxCommand(start, files),
      // crun refuses to run where cgroup v1 and v2 are mixed, though it has no cgroups to make.
      hide: this.#options.cgroups.layout.version === 1 ? ['/sys/fs/cgroup/unified'] : [],
      program: [
        ...[this.#options.crunPath, '--root', files.runtime, '--cgroup-manager=disabled'],
        ...[`--log=file:${files.log}`, 'run', '--detach', '--pid-file', files.pid],
        ...['--bundle', dir, start.sandboxId],
      ],
    }
  }

  #restoreCommand(start: EngineStart, files: InstanceFiles, memoryDir: string): ShimCommand {
    const { criu, runDir } = this.#options
    if (!criu) throw new Error('there is no CRIU on this machine: memory cannot be restored')
    writeOwnImages(memoryDir, files.ownImages, { hostname: start.hostname, uidBase: start.slot.uidBase })
    mkdirSync(files.memory, { recursive: true, mode: 0o700 })
    const stock = criu.kind === 'stock'
    // Stock CRIU looks in one place only: our images lie over the snapshot's.
    if (stock)
      mount('overlay', files.memory, 'overlay', MS_RDONLY, `lowerdir=${files.ownImages}:${memoryDir}`)
    return {
      ...this.#sandboxCommand(start, files),
      // Through a mount that ends with the restore, so that the guest's memory maps name no path of this machine.
      binds: stock ? [] : [{ from: memoryDir, to: files.memory }],
      ...restoreProgram({
        criu,
        runDir,
        imagesPath: files.memory,
        rootPath: join(this.#slotDir(start.slot), 'root'),
        external: { sysfsPath: start.slot.sysfsPath, devicesPath: this.#devicesPath },
        logPath: files.log,
        pidFile: files.pid,
        cowImagesPath: files.cowImages,
        ownImagesPath: files.ownImages,
      }),
    }
  }

  #sandboxCommand(start: EngineStart, files: InstanceFiles): Omit<ShimCommand, 'program'> {
    return {
      id: start.sandboxId,
      cgroupPaths: start.slot.cgroupPaths,
      netns: start.slot.netnsPath,
      ...(start.slot.netnsPath === NEW_NETWORK ? { sysfs: start.slot.sysfsPath } : {}),
      sandbox: { pidFile: files.pid, startedFile: files.started, exitFile: files.exit },
    }
  }

  #takeShim(slot: Slot): Shim {
    const prepared = this.#shims.get(slot.index)
    this.#shims.delete(slot.index)
    return prepared?.usable ? prepared : new Shim(this.#options.shimPath)
  }

  #slotDir(slot: Pick<Slot, 'index'>): string {
    return join(this.#options.runDir, 'slots', String(slot.index))
  }

  #cgroup(slot: Slot): Cgroup {
    return this.#options.cgroups.cgroup(String(slot.index))
  }

  #freezerPath(slot: Slot): string {
    const { layout } = this.#options.cgroups
    const prefix = layout.version === 1 ? `${layout.freezer}/` : layout.root
    return slot.cgroupPaths.find((path) => path.startsWith(prefix))!
  }
}

function own(instance: Instance): ProcessInstance {
  if (instance instanceof ProcessInstance) return instance
  throw new TypeError('the instance belongs to another engine')
}

function removeInstanceFiles(files: InstanceFiles): void {
  for (const path of Object.values(files)) rmSync(path, { recursive: true, force: true })
}

function sizeOf(dir: string): number {
  return readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).size, 0)
}
