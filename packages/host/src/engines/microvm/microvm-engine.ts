import { chownSync } from 'node:fs'
import { join } from 'node:path'
import type { CgroupLimits } from '../../linux/cgroup.ts'
import { gatewayAddress, gatewayMac, guestAddress, type Slot } from '../../slots/slots.ts'
import { snapshotSubvolumeInBackground } from '../../storage/btrfs.ts'
import type { Layer } from '../../storage/layers.ts'
import type {
  AdoptEntry,
  CapturedState,
  CaptureTarget,
  EngineReport,
  EngineStart,
  Instance,
  Limits,
} from '../engine.ts'
import { type ProcessInstance, within } from '../instance.ts'
import { makeOpenDirectory, ownProcess, ProcessEngine, type ProcessEngineOptions } from '../process-engine.ts'
import { NEW_NETWORK, type Shim, type StartedInit } from '../shim.ts'
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
import { readingMachine, unpackWritten } from './written/written-disk.ts'

/** A killed monitor gives its memory back first: a gibibyte takes a tenth of a second. */
const STOP_WITHIN_MS = 10_000
/** A full disk is read at its speed. */
const READ_WITHIN_MS = 600_000

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
      if (report.usable) {
        this.#monitor = monitor
        return report
      }
    }
    const detail = reports.map((report) => report.detail).join('; ')
    return { ...reports[0]!, detail }
  }

  hostClass(agentDigest = this.agentDigest): string {
    return hostClass(this.#monitor, this.options.image.digest, agentDigest)
  }

  override memoryClass(instance: Instance, agentDigest = this.agentDigest): string {
    return hostClass(this.#running(instance).monitor, undefined, agentDigest)
  }

  override restores(memoryClass: string, agentDigest = this.agentDigest): boolean {
    return this.options.monitors.some((one) => hostClass(one, undefined, agentDigest) === memoryClass)
  }

  /** Nothing: which engine the next sandbox of a slot has is not known before. */
  override async prepare(): Promise<void> {}

  async start(start: EngineStart): Promise<ProcessInstance> {
    const { slot, limits } = start
    const files = this.#vacateForMachine(slot)
    return await this.launch(start, async (shim) => {
      const { plan, monitor } = await this.#plan(start, files)
      await attachTap(slot)
      return await this.#begin(shim, monitor, plan, { cpuCount: limits.cpuCount, netns: slot.netnsPath })
    })
  }

  /** By a machine of its own, without a network: this one mounts no disk that a guest has written. */
  override async layOutWritten(stopped: Instance): Promise<void> {
    const { sandboxId, slot, upper } = stopped
    const { image } = this.options
    const files = this.#vacateForMachine(slot)
    const reader = await this.launch(stopped, async (shim) => {
      const machine = readingMachine(upper, slot.uidBase)
      const places = { directory: files.machine, diskDirectory: upper.path }
      const plan: MachinePlan = { ...machine, ...places, sandboxId, slot, image }
      const limits = { cpuCount: machine.vcpuCount, memoryMib: machine.memoryMib }
      writeMachineRecord(files.record, newRecord(limits, [], this.#monitor))
      const allowed = { cpuCount: machine.vcpuCount, netns: NEW_NETWORK }
      return await this.#begin(shim, this.#monitor, plan, allowed)
    })
    try {
      await within(reader.exited, READ_WITHIN_MS * this.#monitor.timeScale)
    } finally {
      await this.stop(reader)
    }
    await unpackWritten(upper)
  }

  async capture(instance: Instance, into: CaptureTarget): Promise<CapturedState> {
    const { monitor, machine } = this.#running(instance)
    let isKept = false
    try {
      // A monitor that answers too late stands still all the same.
      await monitor.pause(machine)
      const sizeBytes =
        into.memoryDir === undefined ? 0 : await this.#keep(instance, into.memoryDir, into.upperCopyPath)
      await into.whileStill?.({ sizeBytes })
      isKept = true
      return { sizeBytes }
    } finally {
      if (isKept && !into.leaveRunning) await this.stop(instance)
      else await monitor.resume(machine, { afterCapture: true })
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
      // A capture that was cut off has left it standing, or is being written still.
      const { monitor, machine } = this.#running(instance)
      await monitor.resume(machine, { afterCapture: true })
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

  protected lastWords({ upper }: Pick<EngineStart, 'upper'>): string {
    return lastWords(logPath(upper.path))
  }

  #vacateForMachine(slot: Slot): MachineFiles {
    const files = this.vacate(slot)
    makeOpenDirectory(files.machine)
    chownSync(files.machine, slot.uidBase, slot.uidBase)
    return files
  }

  async #begin(
    shim: Shim,
    monitor: Monitor,
    plan: MachinePlan,
    { cpuCount, netns }: { cpuCount: number; netns: string },
  ): Promise<StartedInit> {
    const { slot, diskDirectory } = plan
    const files = this.files(slot)
    this.limit(slot, { ...machineLimits(plan, monitor), cpuCount })
    const { pidFile, ...command } = await monitor.prepare(plan)
    const process = await shim.start({
      ...command,
      id: plan.sandboxId,
      cgroupPaths: slot.cgroupPaths,
      netns,
      logPath: logPath(diskDirectory),
      sandbox: { pidFile, startedFile: files.started, exitFile: files.exit },
    })
    await monitor.launch(plan, { slot, directory: files.machine, process })
    return process
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

  async #plan(start: EngineStart, files: MachineFiles): Promise<{ plan: MachinePlan; monitor: Monitor }> {
    const { slot, upper, limits, memoryDir } = start
    const { image, bundlesDir, seedsDir } = this.options
    const layers = [...start.layers, start.agentLayer ?? this.options.agentLayer]
    const record =
      memoryDir === undefined
        ? newRecord(limits, layers, this.#monitor)
        : readMachineRecord(recordIn(memoryDir))
    const monitor = this.#monitorOf(record)
    const given = layers.map(({ digest }) => digest)
    if (record.layers.join() !== given.join()) throw new Error('its memory belongs to other layers')
    const room = { maxDrives: monitor.maxDrives - 1, firstDrive: 1, bundlesDir }
    const { drives, lower } = await layerDrives(layers, room)
    const disk = await prepareDisk({ upper, diskMib: limits.diskMib, memoryDir, uid: slot.uidBase, seedsDir })
    writeMachineRecord(files.record, record)
    const plan = {
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
    return { plan, monitor }
  }

  /** What runs is under the monitor that started it, which may not be the one that the probe has settled on since. */
  #running(instance: Instance): { monitor: Monitor; machine: RunningMachine; record: MachineRecord } {
    const { slot, init } = ownProcess(instance)
    const files = this.files(slot)
    const record = readMachineRecord(files.record)
    const monitor = this.#monitorOf(record)
    return { monitor, machine: { slot, directory: files.machine, process: init }, record }
  }

  /** One may be there twice, with KVM and without. */
  #monitorOf(record: MachineRecord): Monitor {
    if (this.#monitor.name === record.monitor) return this.#monitor
    const monitor = this.options.monitors.find(({ name }) => name === record.monitor)
    if (!monitor) throw new Error(`${record.monitor}, which the sandbox was started under, is not installed`)
    return monitor
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

const newRecord = (
  { cpuCount, memoryMib }: Pick<Limits, 'cpuCount' | 'memoryMib'>,
  layers: readonly Layer[],
  { name }: Monitor,
): MachineRecord => ({
  version: 1,
  monitor: name,
  vcpuCount: Math.max(1, Math.ceil(cpuCount)),
  memoryMib,
  layers: layers.map(({ digest }) => digest),
})

const machineLimits = (
  { memoryMib, vcpuCount }: MachinePlan,
  { overheadMib, overheadPids }: Monitor,
): Omit<CgroupLimits, 'cpuCount'> => ({
  memoryMib: memoryMib + overheadMib,
  pids: vcpuCount + overheadPids,
})

/** Where a monitor that a guest has taken over cannot fill anything but the sandbox's own space. */
const logPath = (upperPath: string): string => join(upperPath, 'monitor.log')
