import { chownSync } from 'node:fs'
import { join } from 'node:path'
import type { CgroupLimits } from '../../linux/cgroup.ts'
import { gatewayAddress, gatewayMac, guestAddress, type Slot } from '../../slots.ts'
import { snapshotSubvolumeInBackground } from '../../storage/btrfs.ts'
import type { Layer } from '../../storage/layers.ts'
import type { Upper } from '../../storage/uppers.ts'
import type {
  AdoptEntry,
  CapturedState,
  CaptureTarget,
  EngineReport,
  EngineStart,
  Instance,
} from '../engine.ts'
import type { ProcessInstance } from '../instance.ts'
import { makeOpenDirectory, ownProcess, ProcessEngine, type ProcessEngineOptions } from '../process-engine.ts'
import { occupiedBytesIn } from '../written-bytes.ts'
import { keepDisk, prepareDisk } from './disk.ts'
import { layerDrives } from './drives.ts'
import { hostClass } from './host-class.ts'
import type { GuestImage } from './image/guest-image.ts'
import {
  lastWords,
  type MachineFiles,
  type MachineRecord,
  machineFiles,
  readMachineRecord,
  recordIn,
  writeMachineRecord,
} from './machine-files.ts'
import type { MachinePlan, Monitor, RunningMachine } from './monitor.ts'
import { probeMonitor } from './probe.ts'
import { attachTap, detachTap, TAP } from './slot-attachment.ts'

/** A killed monitor gives its memory back first: a gibibyte takes a tenth of a second. */
const STOP_WITHIN_MS = 10_000

export interface MicrovmEngineOptions extends ProcessEngineOptions {
  /** In order of preference: the probe settles on the first that boots a guest. At least one. */
  monitors: readonly Monitor[]
  image: GuestImage
  agentLayer: Layer
  /** On the file system of the uppers: disks that others are copies of. See disk.ts. */
  seedsDir: string
  /** See drives.ts. */
  bundlesDir: string
  /** A monitor that emulates is usable only when the operator named it. */
  mayEmulate: boolean
}

/** Sandboxes as machines of their own: a guest kernel each, under a virtual machine monitor. */
export class MicrovmEngine extends ProcessEngine<MachineFiles, MicrovmEngineOptions> {
  readonly name = 'microvm'
  readonly canCapture = true
  readonly writtenIn = 'memory'
  protected readonly filesIn = machineFiles
  /** For new machines. */
  #monitor: Monitor

  constructor(options: MicrovmEngineOptions) {
    super(options)
    this.#monitor = options.monitors[0]!
  }

  async probe(): Promise<EngineReport> {
    const reports: EngineReport[] = []
    for (const monitor of this.options.monitors) {
      const report = await probeMonitor(monitor, this.options)
      reports.push(report)
      if (!report.usable) continue
      this.#monitor = monitor
      return report
    }
    const detail = reports.map((report) => report.detail).join('; ')
    return { ...reports[0]!, detail }
  }

  hostClass(agentDigest = this.agentDigest): string {
    return hostClass(this.#monitor, this.options.image, agentDigest)
  }

  /** Nothing: which engine the next sandbox of a slot has is not known before. */
  override async prepare(): Promise<void> {}

  async start(start: EngineStart): Promise<ProcessInstance> {
    const { slot, upper } = start
    const monitor = this.#monitor
    const files = this.vacate(slot)
    makeOpenDirectory(files.machine)
    chownSync(files.machine, slot.uidBase, slot.uidBase)
    return await this.launch(start, async (shim) => {
      const plan = await this.#plan(start, files)
      await attachTap(slot)
      this.limit(slot, machineLimits(start, plan, monitor))
      const { pidFile, ...command } = await monitor.prepare(plan)
      const process = await shim.start({
        ...command,
        id: start.sandboxId,
        cgroupPaths: slot.cgroupPaths,
        netns: slot.netnsPath,
        logPath: logPath(upper),
        sandbox: { pidFile, startedFile: files.started, exitFile: files.exit },
      })
      await monitor.launch(plan, { slot, directory: files.machine, process })
      return process
    })
  }

  async capture(instance: Instance, into: CaptureTarget): Promise<CapturedState> {
    const { monitor, machine } = this.#running(instance)
    await monitor.pause(machine)
    let isKept = false
    try {
      const sizeBytes =
        into.memoryDir === undefined ? 0 : await this.#keep(instance, into.memoryDir, into.upperCopyPath)
      await into.whileStill?.({ sizeBytes })
      isKept = true
      return { sizeBytes }
    } finally {
      if (isKept && !into.leaveRunning) await this.stop(instance)
      else await monitor.resume(machine)
    }
  }

  override async freeze(instance: Instance): Promise<void> {
    const { monitor, machine } = this.#running(instance)
    await monitor.pause(machine)
  }

  override async thaw(instance: Instance): Promise<void> {
    const { monitor, machine } = this.#running(instance)
    await monitor.resume(machine)
  }

  override async adopt(entry: AdoptEntry): Promise<ProcessInstance | undefined> {
    const instance = await super.adopt(entry)
    if (!instance) return undefined
    try {
      // A capture that was cut off has left it standing.
      await this.thaw(instance)
      return instance
    } catch {
      // A start that was cut off has left a monitor without a machine, or one that answers nobody.
      await this.stop(instance)
      return undefined
    }
  }

  /** Last words of the guest's console: why it did not come up. */
  console(instance: Instance): Promise<string> {
    const { monitor, machine } = this.#running(instance)
    return monitor.console(machine)
  }

  protected override ended(own: ProcessInstance): Promise<void> {
    return super.ended(own, STOP_WITHIN_MS * this.#monitor.timeScale)
  }

  protected async detach(slot: Slot): Promise<void> {
    await detachTap(slot)
    for (const monitor of this.options.monitors) monitor.forget(slot)
  }

  protected lastWords({ upper }: EngineStart): string {
    return lastWords(logPath(upper))
  }

  /** Writes memory, and the disk unless the upper is copied as a whole. Answers the bytes written. */
  async #keep(instance: Instance, memoryDir: string, upperCopyPath: string | undefined): Promise<number> {
    const { monitor, machine, record } = this.#running(instance)
    const { upper } = instance
    await Promise.all([
      monitor.snapshot(machine, memoryDir),
      upperCopyPath === undefined
        ? keepDisk(upper, memoryDir)
        : snapshotSubvolumeInBackground(upper.path, upperCopyPath, { readOnly: true }),
    ])
    writeMachineRecord(recordIn(memoryDir), record)
    return occupiedBytesIn(memoryDir)
  }

  async #plan(start: EngineStart, files: MachineFiles): Promise<MachinePlan> {
    const { slot, upper, limits, memoryDir } = start
    const { image, bundlesDir, seedsDir } = this.options
    const monitor = this.#monitor
    const layers = [...start.layers, start.agentLayer ?? this.options.agentLayer]
    const record =
      memoryDir === undefined ? newRecord(start, layers, monitor) : readMachineRecord(recordIn(memoryDir))
    const given = layers.map(({ digest }) => digest)
    if (record.layers.join() !== given.join()) throw new Error('its memory belongs to other layers')
    const room = { maxDrives: monitor.maxDrives - 1, firstDrive: 1, bundlesDir }
    const { drives, lower } = await layerDrives(layers, room)
    const disk = await prepareDisk({ upper, diskMib: limits.diskMib, memoryDir, uid: slot.uidBase, seedsDir })
    writeMachineRecord(files.record, record)
    return {
      sandboxId: start.sandboxId,
      slot,
      directory: files.machine,
      diskDirectory: upper.path,
      image,
      vcpuCount: record.vcpuCount,
      memoryMib: record.memoryMib,
      drives: [{ path: disk, readOnly: false }, ...drives],
      kernelArguments: guestArguments(start, lower),
      tap: TAP,
      memoryDir,
    }
  }

  /** What runs is under the monitor that started it, which may not be the one that the probe has settled on since. */
  #running(instance: Instance): { monitor: Monitor; machine: RunningMachine; record: MachineRecord } {
    const { slot, init } = ownProcess(instance)
    const files = this.files(slot)
    const record = readMachineRecord(files.record)
    const monitor = this.options.monitors.find(({ name }) => name === record.monitor)
    if (!monitor)
      throw new Error(`${record.monitor}, which runs sandbox ${instance.sandboxId}, is not installed`)
    return { monitor, machine: { slot, directory: files.machine, process: init }, record }
  }
}

function guestArguments({ hostname, limits }: EngineStart, lower: string): string {
  const words = {
    disk: 'vda',
    lower,
    ip: guestAddress,
    gw: gatewayAddress,
    gwmac: gatewayMac,
    host: hostname,
    pids: limits.pids,
  }
  return Object.entries(words)
    .map(([name, value]) => `e2b.${name}=${value}`)
    .join(' ')
}

const newRecord = ({ limits }: EngineStart, layers: readonly Layer[], { name }: Monitor): MachineRecord => ({
  version: 1,
  monitor: name,
  vcpuCount: Math.max(1, Math.ceil(limits.cpuCount)),
  memoryMib: limits.memoryMib,
  layers: layers.map(({ digest }) => digest),
})

const machineLimits = (
  { limits }: EngineStart,
  { memoryMib, vcpuCount }: MachinePlan,
  { overheadMib, overheadPids }: Monitor,
): CgroupLimits => ({
  cpuCount: limits.cpuCount,
  memoryMib: memoryMib + overheadMib,
  pids: vcpuCount + overheadPids,
})

/** Where a monitor that a guest has taken over cannot fill anything but the sandbox's own space. */
const logPath = ({ path }: Upper): string => join(path, 'monitor.log')
