import { chownSync, copyFileSync, createReadStream, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { run } from '../../linux/process.ts'
import type { Slot } from '../../slots/slots.ts'
import { kvmFault } from './kvm.ts'
import { copyGuestMemory } from './memory-file.ts'
import type { MachinePlan, Monitor, MonitorCommand, MonitorSupport, RunningMachine } from './monitor.ts'
import { prepareMonitorDevices } from './monitor-devices.ts'
import { QEMU_LAYOUT, QEMU_MAX_DRIVES, qemuCommand, qemuFiles } from './qemu-command.ts'
import { machineFilesIn, prepareQemuRoot, qemuRoot, SEEN_AT } from './qemu-root.ts'
import { isGone, Qmp } from './qmp.ts'

/** Maps a file that it may only read, privately, without help. */
const MAPS_READ_ONLY_SINCE = [8, 2] as const
const REQUEST_WITHIN_MS = 10_000
const CONSOLE_BYTES = 16_384
/** What QEMU calls the files of its machine. */
const SEEN = qemuFiles(SEEN_AT)

export interface QemuMonitorOptions {
  path: string
  /** `kvm` needs a KVM that works; `tcg` emulates, far slower, on any machine. */
  accelerator: 'kvm' | 'tcg'
  /** See native/open-read-only.c; needed before QEMU 8.2. */
  openReadOnlyPath: string
  /** A directory on tmpfs for the devices that QEMU opens. */
  devicesDir: string
  /** Multiplies every time-out. */
  timeScale: number
}

/**
 * Machines in QEMU, of type q35 with PCI: its `microvm` type has no clock that Debian's kernel could calibrate under
 * emulation, and no VMGenID. Device state is written as for Xen, without memory; memory is mapped from a file.
 */
export class QemuMonitor implements Monitor {
  readonly name = 'qemu'
  readonly overheadPids = 96
  readonly maxDrives: number = QEMU_MAX_DRIVES
  readonly #options: QemuMonitorOptions
  /** Last words of each slot's guest: QEMU gives them once. */
  readonly #said = new Map<number, string>()
  #version = ''

  constructor(options: QemuMonitorOptions) {
    this.#options = options
  }

  /** Translated code lies in the monitor's memory. */
  get overheadMib(): number {
    return this.#options.accelerator === 'kvm' ? 128 : 320
  }

  get timeScale(): number {
    return this.#options.timeScale
  }

  async support(): Promise<MonitorSupport> {
    const { accelerator, path } = this.#options
    const isFast = accelerator === 'kvm'
    const how = isFast ? 'QEMU with KVM' : 'QEMU emulating the processor, for tests: many times slower'
    try {
      const { stdout } = await run(path, ['--version'])
      this.#version = /version (\d+(?:\.\d+)+)/.exec(stdout)?.[1] ?? ''
    } catch {
      const remedy = 'npm run engine -- install qemu'
      return { usable: false, version: '', detail: `${path} cannot be run`, remedy, isFast }
    }
    const version = `QEMU ${this.#version}`
    const fault = isFast ? kvmFault() : undefined
    if (fault) return { usable: false, version, ...fault, isFast }
    return { usable: true, version, detail: how, remedy: '', isFast }
  }

  memoryClass(): string {
    return `qemu${this.#version}-${this.#options.accelerator}-${QEMU_LAYOUT}`
  }

  async prepare(plan: MachinePlan): Promise<MonitorCommand> {
    const { openReadOnlyPath, devicesDir } = this.#options
    const memory = plan.memoryDir === undefined ? emptyMemory(plan) : join(plan.memoryDir, 'memory')
    const needsHelp = plan.memoryDir !== undefined && !this.#mapsReadOnly()
    const binds = prepareQemuRoot(plan.directory, [
      ...prepareMonitorDevices(devicesDir),
      ...plan.drives.map(({ path }, index) => ({ from: path, to: SEEN.drive(index) })),
      { from: memory, to: SEEN.memory },
      ...(plan.memoryDir === undefined
        ? [
            { from: plan.image.kernelPath, to: SEEN.kernel },
            { from: plan.image.initramfsPath, to: SEEN.initramfs },
          ]
        : []),
      ...(needsHelp ? [{ from: openReadOnlyPath, to: SEEN.preload }] : []),
    ])
    giveTo(plan.slot, machineFilesIn(plan.directory))
    return {
      program: qemuCommand({ ...this.#options, mapsReadOnly: this.#mapsReadOnly() }, plan),
      environment: needsHelp ? { LD_PRELOAD: SEEN.preload, E2B_READ_ONLY: SEEN.memory } : {},
      binds,
      root: qemuRoot(plan.directory),
      listenPath: controlPath(plan.directory),
    }
  }

  async launch(plan: MachinePlan, machine: RunningMachine): Promise<void> {
    const dir = machineFilesIn(machine.directory)
    await this.#control(machine, async (qmp) => {
      if (plan.memoryDir !== undefined)
        await loadState(qmp, join(plan.memoryDir, 'state'), qemuFiles(dir).state)
      for (const path of [dir, machine.directory]) chownSync(path, 0, 0)
      await qmp.execute('cont')
    })
    rmSync(emptyMemoryPath(plan), { force: true })
  }

  pause(machine: RunningMachine): Promise<void> {
    return this.#control(machine, async (qmp) => void (await qmp.execute('stop')))
  }

  resume(machine: RunningMachine): Promise<void> {
    return this.#control(machine, async (qmp) => void (await qmp.execute('cont')))
  }

  async snapshot(machine: RunningMachine, memoryDir: string): Promise<void> {
    const { stateOut } = qemuFiles(machineFilesIn(machine.directory))
    // The directory is root's by now: QEMU gets this one file to write.
    writeFileSync(stateOut, '', { mode: 0o600 })
    giveTo(machine.slot, stateOut)
    try {
      const words = { filename: SEEN.stateOut, live: false }
      await this.#control(machine, async (qmp) => void (await qmp.execute('xen-save-devices-state', words)))
      copyFileSync(stateOut, join(memoryDir, 'state'))
      chownSync(join(memoryDir, 'state'), 0, 0)
    } finally {
      rmSync(stateOut, { force: true })
    }
    await copyGuestMemory(machine.process.pid, SEEN.memory, join(memoryDir, 'memory'))
  }

  async console(machine: RunningMachine): Promise<string> {
    const { index } = machine.slot
    const news = await this.#news(machine)
    const said = `${this.#said.get(index) ?? ''}${news}`.slice(-CONSOLE_BYTES)
    this.#said.set(index, said)
    return said
  }

  forget({ index }: Slot): void {
    this.#said.delete(index)
  }

  /** What the guest has said since it was asked last, which may end in the middle of a word. */
  async #news(machine: RunningMachine): Promise<string> {
    try {
      const words = { device: 'console', size: CONSOLE_BYTES }
      return String(await this.#control(machine, (qmp) => qmp.execute('ringbuf-read', words)))
    } catch (error) {
      if (isGone(error)) return ''
      throw error
    }
  }

  #control<Result>(machine: RunningMachine, action: (qmp: Qmp) => Promise<Result>): Promise<Result> {
    return Qmp.with(controlPath(machine.directory), REQUEST_WITHIN_MS * this.timeScale, action)
  }

  #mapsReadOnly(): boolean {
    const [major = 0, minor = 0] = this.#version.split('.').map(Number)
    const [sinceMajor, sinceMinor] = MAPS_READ_ONLY_SINCE
    return major > sinceMajor || (major === sinceMajor && minor >= sinceMinor)
  }
}

const controlPath = (directory: string): string => join(directory, 'control')

/** QEMU takes device state as the end of a migration, over a socket. */
async function loadState(qmp: Qmp, from: string, socketPath: string): Promise<void> {
  const capabilities = [{ capability: 'events', state: true }]
  await qmp.execute('migrate-set-capabilities', { capabilities })
  await qmp.execute('migrate-incoming', { uri: `unix:${SEEN.state}` })
  await pipeline(createReadStream(from), connect(socketPath))
  await qmp.event('MIGRATION', ({ status }) => status === 'completed')
}

/** A boot begins with memory of zeros: a file without content, which nothing is ever written to. */
function emptyMemory(plan: MachinePlan): string {
  const path = emptyMemoryPath(plan)
  rmSync(path, { force: true })
  writeFileSync(path, '', { mode: 0o600, flag: 'wx' })
  truncateSync(path, plan.memoryMib * 2 ** 20)
  giveTo(plan.slot, path)
  return path
}

const emptyMemoryPath = (plan: MachinePlan): string => join(plan.diskDirectory, 'empty-memory')

const giveTo = ({ uidBase }: Slot, path: string): void => chownSync(path, uidBase, uidBase)
