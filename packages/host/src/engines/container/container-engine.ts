import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { userNamespaceFor } from '../../linux/idmap.ts'
import { MS_RDONLY, mount, unmountIfMounted } from '../../linux/mount.ts'
import { setHostname } from '../../linux/namespace.ts'
import type { Slot } from '../../slots/slots.ts'
import { unmountRoot } from '../../storage/overlay.ts'
import type {
  AdoptEntry,
  CapturedState,
  CaptureTarget,
  EngineReport,
  EngineStart,
  Instance,
} from '../engine.ts'
import type { ProcessInstance } from '../instance.ts'
import { prepareRoot, type RootLayers, whileMounted } from '../overlay-root.ts'
import { HOLD_COMMAND } from '../probe.ts'
import { ProcessEngine, type ProcessEngineOptions } from '../process-engine.ts'
import { NEW_NETWORK, Shim, type ShimCommand } from '../shim.ts'
import { bundleFiles } from '../slot-files.ts'
import { bytesIn } from '../written-bytes.ts'
import { favourAgent, unfavourAgent } from './agent-priority.ts'
import { bundleConfig } from './bundle.ts'
import { type Criu, dumpCommand, logTail, restoreProgram } from './checkpoint.ts'
import { prepareDevices } from './devices.ts'
import { hostClass } from './host-class.ts'
import { writeOwnImages } from './images.ts'
import { probeContainer } from './probe.ts'
import { freeingStopped, untraced } from './tracing.ts'

export interface ContainerEngineOptions extends ProcessEngineOptions, RootLayers {
  agentLayer: RootLayers['agentLayer']
  crunPath: string
  /** Without one every start is a cold boot and nothing can be captured. */
  criu: Criu | undefined
  /** First process of a sandbox. Must not keep the standard streams it is given. */
  initCommand: readonly string[]
  openFilesMax: number
}

const containerFiles = (slotDir: string) => ({
  ...bundleFiles(slotDir),
  cowImages: join(slotDir, 'cow-images'),
  memory: join(slotDir, 'memory'),
  ownImages: join(slotDir, 'own-images'),
  runtime: join(slotDir, 'crun'),
})

type ContainerFiles = ReturnType<typeof containerFiles>

/** Sandboxes as containers: started by crun, or restored by CRIU from the memory of one that was. */
export class ContainerEngine extends ProcessEngine<ContainerFiles, ContainerEngineOptions> {
  readonly name = 'container'
  readonly writtenIn = 'upper'
  protected readonly filesIn = containerFiles
  readonly #devicesPath: string

  constructor(options: ContainerEngineOptions) {
    super(options)
    this.#devicesPath = join(options.runDir, 'dev')
    prepareDevices(this.#devicesPath)
  }

  probe(): Promise<EngineReport> {
    const holding = new ContainerEngine({ ...this.options, initCommand: HOLD_COMMAND })
    return probeContainer({ ...this.options, engine: holding })
  }

  get canCapture(): boolean {
    return this.options.criu !== undefined
  }

  hostClass(agentDigest = this.agentDigest): string {
    return hostClass(this.options.criu?.version, agentDigest)
  }

  async start(start: EngineStart): Promise<ProcessInstance> {
    const { slot, limits, memoryDir } = start
    const files = this.vacate(slot)
    this.limit(slot, limits)
    const root = await prepareRoot(start, this.options)
    const instance = await this.launch(start, (shim) =>
      whileMounted(root, this.directory(slot), async () => {
        try {
          return await shim.start(
            memoryDir === undefined
              ? this.#bootCommand(start, files)
              : this.#restoreCommand(start, files, memoryDir),
          )
        } finally {
          unmountIfMounted(files.memory)
        }
      }),
    )
    favourAgent(instance.initPid)
    return instance
  }

  async capture(instance: Instance, into: CaptureTarget): Promise<CapturedState> {
    const cgroup = this.cgroup(instance.slot)
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

  override async rename(instance: Instance, sandboxId: string): Promise<ProcessInstance> {
    setHostname(`/proc/${instance.initPid}/ns/uts`, sandboxId)
    return await super.rename(instance, sandboxId)
  }

  override async adopt(entry: AdoptEntry): Promise<ProcessInstance | undefined> {
    const instance = await super.adopt(entry)
    if (!instance) return undefined
    await userNamespaceFor(entry.slot.uidBase)
    await untraced(instance.initPid)
    favourAgent(instance.initPid)
    return instance
  }

  protected async detach(slot: Slot): Promise<void> {
    unmountRoot(this.directory(slot))
  }

  protected lastWords({ slot }: EngineStart): string {
    return `: ${logTail(this.files(slot).log)}`
  }

  /** Answers the bytes written. */
  async #dump(
    instance: Instance,
    memoryDir: string,
    leaveRunning: boolean,
    upperCopyPath: string | undefined,
  ): Promise<number> {
    const { criu, runDir, shimPath } = this.options
    if (!criu) throw new Error('there is no CRIU on this machine: memory cannot be captured')
    const files = this.files(instance.slot)
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
    const status = await freeingStopped(this.cgroup(instance.slot), new Shim(shimPath).run(command))
    if (status !== 0) throw new Error(`memory could not be captured: ${logTail(files.log)}`)
    return bytesIn(memoryDir)
  }

  #bootCommand(start: EngineStart, files: ContainerFiles): ShimCommand {
    const { crunPath, cgroups, initCommand, openFilesMax } = this.options
    const dir = this.directory(start.slot)
    const config = bundleConfig({
      rootPath: join(dir, 'root'),
      sysfsPath: start.slot.sysfsPath,
      devicesPath: this.#devicesPath,
      hostname: start.hostname,
      uidBase: start.slot.uidBase,
      initCommand,
      openFilesMax,
      exists: existsSync,
    })
    writeFileSync(files.config, JSON.stringify(config), { mode: 0o600 })
    return {
      ...sandboxCommand(start, files),
      // crun refuses to run where cgroup v1 and v2 are mixed, though it has no cgroups to make.
      hide: cgroups.layout.version === 1 ? ['/sys/fs/cgroup/unified'] : [],
      program: [
        ...[crunPath, '--root', files.runtime, '--cgroup-manager=disabled'],
        ...[`--log=file:${files.log}`, 'run', '--detach', '--pid-file', files.pid],
        ...['--bundle', dir, start.sandboxId],
      ],
    }
  }

  #restoreCommand(start: EngineStart, files: ContainerFiles, memoryDir: string): ShimCommand {
    const { criu, runDir } = this.options
    if (!criu) throw new Error('there is no CRIU on this machine: memory cannot be restored')
    writeOwnImages(memoryDir, files.ownImages, { hostname: start.hostname, uidBase: start.slot.uidBase })
    mkdirSync(files.memory, { recursive: true, mode: 0o700 })
    const stock = criu.kind === 'stock'
    // Stock CRIU looks in one place only: our images lie over the snapshot's.
    if (stock)
      mount('overlay', files.memory, 'overlay', MS_RDONLY, `lowerdir=${files.ownImages}:${memoryDir}`)
    return {
      ...sandboxCommand(start, files),
      // Through a mount that ends with the restore, so that the guest's memory maps name no path of this machine.
      binds: stock ? [] : [{ from: memoryDir, to: files.memory }],
      ...restoreProgram({
        criu,
        runDir,
        imagesPath: files.memory,
        rootPath: join(this.directory(start.slot), 'root'),
        external: { sysfsPath: start.slot.sysfsPath, devicesPath: this.#devicesPath },
        logPath: files.log,
        pidFile: files.pid,
        cowImagesPath: files.cowImages,
        ownImagesPath: files.ownImages,
      }),
    }
  }

  #freezerPath(slot: Slot): string {
    const { layout } = this.options.cgroups
    const prefix = layout.version === 1 ? `${layout.freezer}/` : layout.root
    return slot.cgroupPaths.find((path) => path.startsWith(prefix))!
  }
}

const sandboxCommand = (
  { sandboxId, slot }: EngineStart,
  files: ContainerFiles,
): Omit<ShimCommand, 'program'> => ({
  id: sandboxId,
  cgroupPaths: slot.cgroupPaths,
  netns: slot.netnsPath,
  ...(slot.netnsPath === NEW_NETWORK ? { sysfs: slot.sysfsPath } : {}),
  sandbox: { pidFile: files.pid, startedFile: files.started, exitFile: files.exit },
})
