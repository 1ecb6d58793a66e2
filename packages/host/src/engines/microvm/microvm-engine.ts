import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Cgroup, CgroupRoot } from '../../linux/cgroup.ts'
import { alive } from '../../linux/process.ts'
import { gatewayAddress, gatewayMac, guestAddress, type Slot } from '../../slots.ts'
import { snapshotSubvolumeInBackground } from '../../storage/btrfs.ts'
import type { Layer } from '../../storage/layers.ts'
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
import { Shim, type StartedInit } from '../shim.ts'
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
const stopTimeoutMs = 10_000

export interface MicrovmEngineOptions {
  /** On tmpfs; `slots/<index>` in it belongs to a slot. Directories on the way must let others pass (0711). */
  runDir: string
  /** See native/build.ts. */
  shimPath: string
  /** In order of preference: the probe settles on the first that boots a guest. At least one. */
  monitors: readonly Monitor[]
  image: GuestImage
  /** The agent's own layer: the topmost of every machine. */
  agentLayer: Layer
  cgroups: CgroupRoot
  /** On the file system of the uppers: disks that others are copies of. See disk.ts. */
  seedsDir: string
  /** See drives.ts. */
  bundlesDir: string
  /** A monitor that emulates is usable only when the operator named it. */
  mayEmulate: boolean
  /** For the probe: an upper of its own and ids that no slot has. */
  probe: { take: () => Promise<Upper>; give: (upper: Upper) => Promise<void>; uidBase: number }
}

/** Sandboxes as machines of their own: a guest kernel each, under a virtual machine monitor. */
export class MicrovmEngine implements Engine {
  readonly name = 'microvm'
  readonly canCapture = true
  readonly writtenIn = 'memory'
  readonly #options: MicrovmEngineOptions
  /** For new machines. */
  #monitor: Monitor
  readonly #memoryKills = new MemoryKills()

  constructor(options: MicrovmEngineOptions) {
    this.#options = options
    this.#monitor = options.monitors[0]!
    for (const dir of [options.runDir, join(options.runDir, 'slots')]) {
      mkdirSync(dir, { recursive: true })
      chmodSync(dir, 0o711)
    }
  }

  async probe(): Promise<EngineReport> {
    const reports: EngineReport[] = []
    for (const monitor of this.#options.monitors) {
      const report = await probeMonitor(monitor, this.#options)
      reports.push(report)
      if (!report.usable) continue
      this.#monitor = monitor
      return report
    }
    const detail = reports.map((report) => report.detail).join('; ')
    return { ...reports[0]!, detail }
  }

  get agentDigest(): string {
    return this.#options.agentLayer.digest
  }

  hostClass(agentDigest = this.agentDigest): string {
    return hostClass(this.#monitor, this.#options.image, agentDigest)
  }

  /** Nothing: which engine the next sandbox of a slot has is not known before. */
  async prepare(): Promise<void> {}

  async start(start: EngineStart): Promise<ProcessInstance> {
    const { slot, upper } = start
    const dir = this.#slotDir(slot)
    const files = machineFiles(dir)
    const monitor = this.#monitor
    removeFiles(files)
    this.#makeDirectories(slot, dir, files)
    const shim = new Shim(this.#options.shimPath)
    const cgroup = this.#cgroup(slot)
    try {
      const plan = await this.#plan(start, files)
      await attachTap(slot)
      this.#limit(cgroup, start, plan)
      this.#memoryKills.begin(slot.index, cgroup)
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
      return this.#instance(start.sandboxId, slot, upper, process, shim.ended())
    } catch (error) {
      shim.discard()
      await cgroup.killAll()
      const words = lastWords(logPath(upper))
      await detachTap(slot)
      monitor.forget(slot)
      removeFiles(files)
      const reason = error instanceof Error ? error.message : String(error)
      throw new Error(`sandbox ${start.sandboxId} did not start: ${reason}${words}`, { cause: error })
    }
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

  freeze(instance: Instance): Promise<void> {
    const { monitor, machine } = this.#running(instance)
    return monitor.pause(machine)
  }

  thaw(instance: Instance): Promise<void> {
    const { monitor, machine } = this.#running(instance)
    return monitor.resume(machine)
  }

  /** The name inside is the agent's to set, as everything else that makes a clone its own. */
  async rename(instance: Instance, sandboxId: string): Promise<ProcessInstance> {
    const machine = own(instance)
    const { started } = machineFiles(this.#slotDir(instance.slot))
    writeStarted(started, { ...machine.init, sandboxId })
    return machine.renamed(sandboxId)
  }

  async stop(instance: Instance): Promise<void> {
    const machine = own(instance)
    machine.kill()
    await within(machine.exited, stopTimeoutMs * this.#monitor.timeScale)
    await this.#clear(instance.slot)
  }

  async adopt(entry: AdoptEntry): Promise<ProcessInstance | undefined> {
    const started = readStarted(machineFiles(this.#slotDir(entry.slot)).started)
    if (!started || !alive(started.pid, started.startTime)) return this.#clear(entry.slot)
    // A rename may have been cut between the two records; the pid says that it is the same sandbox.
    if (started.sandboxId !== entry.sandboxId && started.pid !== entry.initPid) return undefined
    const instance = this.#instance(entry.sandboxId, entry.slot, entry.upper, started)
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

  async usage(instance: Instance): Promise<Usage> {
    return this.#cgroup(instance.slot).usage()
  }

  /** Last words of the guest's console: why it did not come up. */
  console(instance: Instance): Promise<string> {
    const { monitor, machine } = this.#running(instance)
    return monitor.console(machine)
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
    return occupiedBytes(memoryDir)
  }

  async #plan(start: EngineStart, files: MachineFiles): Promise<MachinePlan> {
    const { slot, upper, limits, memoryDir } = start
    const { image, bundlesDir, seedsDir } = this.#options
    const monitor = this.#monitor
    const layers = [...start.layers, start.agentLayer ?? this.#options.agentLayer]
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

  /** Whatever there is of a machine in a slot, also of one that has never been whole. Idempotent. */
  async #clear(slot: Slot): Promise<undefined> {
    const dir = this.#slotDir(slot)
    const cgroup = this.#cgroup(slot)
    if (existsSync(cgroup.paths[0]!) && cgroup.pids().length > 0) await cgroup.killAll()
    await detachTap(slot)
    for (const monitor of this.#options.monitors) monitor.forget(slot)
    removeFiles(machineFiles(dir))
    this.#memoryKills.forget(slot.index)
  }

  #limit(cgroup: Cgroup, { limits }: EngineStart, plan: MachinePlan): void {
    const { overheadMib, overheadPids } = this.#monitor
    cgroup.setLimits({
      cpuCount: limits.cpuCount,
      memoryMib: plan.memoryMib + overheadMib,
      pids: plan.vcpuCount + overheadPids,
    })
    cgroup.thaw()
  }

  #makeDirectories(slot: Slot, dir: string, files: MachineFiles): void {
    mkdirSync(dir, { recursive: true })
    chmodSync(dir, 0o711)
    mkdirSync(files.machine, { mode: 0o711 })
    chmodSync(files.machine, 0o711)
    chownSync(files.machine, slot.uidBase, slot.uidBase)
  }

  #instance(
    sandboxId: string,
    slot: Slot,
    upper: Upper,
    init: StartedInit,
    shimEnded?: Promise<void>,
  ): ProcessInstance {
    const dir = this.#slotDir(slot)
    const exited = watchExit(machineFiles(dir).exit, init, shimEnded).then((status) => ({
      status,
      outOfMemory: status === -9 && this.#memoryKills.happened(slot.index, this.#cgroup(slot)),
    }))
    return new ProcessInstance({ sandboxId, slot, upper, init, exited })
  }

  /** What runs is under the monitor that started it, which may not be the one that the probe has settled on since. */
  #running(instance: Instance): { monitor: Monitor; machine: RunningMachine; record: MachineRecord } {
    const { slot, init } = own(instance)
    const files = machineFiles(this.#slotDir(slot))
    const record = readMachineRecord(files.record)
    const monitor = this.#options.monitors.find(({ name }) => name === record.monitor)
    if (!monitor)
      throw new Error(`${record.monitor}, which runs sandbox ${instance.sandboxId}, is not installed`)
    return { monitor, machine: { slot, directory: files.machine, process: init }, record }
  }

  #slotDir(slot: Pick<Slot, 'index'>): string {
    return join(this.#options.runDir, 'slots', String(slot.index))
  }

  #cgroup(slot: Slot): Cgroup {
    return this.#options.cgroups.cgroup(String(slot.index))
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

function own(instance: Instance): ProcessInstance {
  if (instance instanceof ProcessInstance) return instance
  throw new TypeError('the instance belongs to another engine')
}

function removeFiles(files: MachineFiles): void {
  for (const path of Object.values(files)) rmSync(path, { recursive: true, force: true })
}

function occupiedBytes(dir: string): number {
  return readdirSync(dir).reduce((sum, name) => sum + statSync(join(dir, name)).blocks * 512, 0)
}

/** Where a monitor that a guest has taken over cannot fill anything but the sandbox's own space. */
const logPath = ({ path }: Upper): string => join(path, 'monitor.log')
