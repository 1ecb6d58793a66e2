import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { chmod, chown, open } from 'node:fs/promises'
import { join } from 'node:path'
import { run } from '../../linux/process.ts'
import { guestMac, type Slot } from '../../slots/slots.ts'
import { endOfLog } from '../log-end.ts'
import { callFirecracker, listening } from './firecracker-api.ts'
import { closeJail, JAIL, type JailOptions, jailRoot, prepareJail, removeJail } from './firecracker-jail.ts'
import {
  diskLimiter,
  driveId,
  keepLimits,
  limitChanges,
  NETWORK_ID,
  networkLimiters,
  type RateLimits,
  recordLimits,
} from './firecracker-limits.ts'
import { traitsOf } from './firecracker-version.ts'
import { kvmFault } from './kvm.ts'
import type { MachinePlan, Monitor, MonitorCommand, MonitorSupport, RunningMachine } from './monitor.ts'

/** Counts up when devices change in a way that older memory does not fit. */
const LAYOUT = 2
const REQUEST_WITHIN_MS = 10_000
/** A memory of several GiB is written at the speed of the disk. */
const SNAPSHOT_WITHIN_MS = 120_000
const CONSOLE_BYTES = 16_384
/**
 * `no-kvmapf`: a page that has to be read stops the processor. Otherwise the guest is told when it is there, and guests
 * that go on from memory lose that message (Firecracker issue 3020): what waits for the page then waits for ever.
 */
const BOOT_WORDS = [
  ...['console=ttyS0', 'quiet', 'loglevel=3', 'reboot=k', 'panic=-1', 'random.trust_cpu=on', 'no-kvmapf'],
  ...['i8042.noaux', 'i8042.nomux', 'i8042.dumbkbd'],
].join(' ')

export interface FirecrackerMonitorOptions extends JailOptions {
  /** See native/mount-into.c. */
  mountIntoPath: string
  rateLimits: RateLimits
  /** Multiplies every time-out. */
  timeScale: number
}

/**
 * Machines in Firecracker, each in a jail of the jailer's making: own user, root, process and network namespace, and
 * the seccomp filter of the release. Memory is mapped privately from its file by every clone; of a clone only what it
 * has changed is written, over a copy of that file.
 */
export class FirecrackerMonitor implements Monitor {
  readonly name = 'firecracker'
  readonly overheadMib = 48
  readonly overheadPids = 8
  /** There are 19 interrupt lines: two are the machine's own; network, random source and balloon have one each. */
  readonly maxDrives = 14
  readonly #options: FirecrackerMonitorOptions
  #version = ''

  constructor(options: FirecrackerMonitorOptions) {
    this.#options = options
  }

  get timeScale(): number {
    return this.#options.timeScale
  }

  async support(): Promise<MonitorSupport> {
    const remedy = 'npm run engine -- install firecracker'
    const { firecrackerPath, jailerPath } = this.#options
    const broken = (detail: string, what = remedy): MonitorSupport => ({
      usable: false,
      version: this.#version && `Firecracker ${this.#version}`,
      detail,
      remedy: what,
      isFast: true,
    })
    const [version, jailer] = await Promise.all([versionOf(firecrackerPath), versionOf(jailerPath)])
    this.#version = version ?? ''
    if (!version) return broken(`${firecrackerPath} cannot be run`)
    if (jailer !== version)
      return broken(`the jailer at ${jailerPath} is ${jailer ?? 'not there'}, not ${version}`)
    if (isDynamic(firecrackerPath))
      return broken(`${firecrackerPath} is not static: the jailer cannot jail it`)
    const fault = kvmFault()
    if (fault) return broken(fault.detail, fault.remedy)
    const detail = 'Firecracker under its jailer'
    return { usable: true, version: `Firecracker ${version}`, detail, remedy: '', isFast: true }
  }

  memoryClass(): string {
    return `firecracker${this.#version}-${LAYOUT}`
  }

  async prepare(plan: MachinePlan): Promise<MonitorCommand> {
    return prepareJail(this.#options, plan)
  }

  async launch(plan: MachinePlan, machine: RunningMachine): Promise<void> {
    await listening(this.#socketPath(machine.slot), REQUEST_WITHIN_MS * this.timeScale)
    if (plan.memoryDir === undefined) await this.#configure(plan)
    closeJail(this.#options, machine.slot)
    recordLimits(machine.directory, this.#options.rateLimits)
    if (plan.memoryDir === undefined)
      return this.#call(machine.slot, 'PUT', '/actions', { action_type: 'InstanceStart' })
    // Before the first page changes: a daemon that ends in between leaves a machine whose changes are known.
    writeFileSync(basePath(machine), '')
    const changes = limitChanges(plan, this.#options.rateLimits)
    await this.#call(machine.slot, 'PUT', '/snapshot/load', {
      snapshot_path: JAIL.state,
      mem_backend: { backend_type: 'File', backend_path: JAIL.memory },
      [traitsOf(this.#version).dirtyTracking]: true,
      resume_vm: changes.length === 0,
    })
    for (const { path, body } of changes) await this.#call(machine.slot, 'PATCH', path, body)
    if (changes.length > 0) await this.resume(machine)
  }

  pause({ slot }: RunningMachine): Promise<void> {
    return this.#call(slot, 'PATCH', '/vm', { state: 'Paused' })
  }

  /** It answers nothing while it writes a snapshot, also one that an earlier daemon has asked for. */
  resume({ slot }: RunningMachine, { afterCapture } = { afterCapture: false }): Promise<void> {
    const withinMs = afterCapture ? SNAPSHOT_WITHIN_MS : REQUEST_WITHIN_MS
    return this.#call(slot, 'PATCH', '/vm', { state: 'Resumed' }, withinMs)
  }

  async snapshot(machine: RunningMachine, memoryDir: string): Promise<void> {
    const { slot } = machine
    const [state, memory] = [join(memoryDir, 'state'), join(memoryDir, 'memory')]
    // What a monitor has written once it does not count as changed any more: only its first snapshot is a difference.
    const base = `/proc/${machine.process.pid}/root${JAIL.memory}`
    const isDifference =
      existsSync(basePath(machine)) && statSync(base).size <= traitsOf(this.#version).largestDifferenceBytes
    rmSync(basePath(machine), { force: true })
    const timeoutMs = SNAPSHOT_WITHIN_MS * this.timeScale
    if (isDifference)
      await run('cp', ['--sparse=always', '--reflink=auto', '--no-preserve=all', base, memory], { timeoutMs })
    const files = [
      { file: state, seen: JAIL.stateOut },
      { file: memory, seen: JAIL.memoryOut },
    ]
    const words = {
      snapshot_type: isDifference ? 'Diff' : 'Full',
      snapshot_path: JAIL.stateOut,
      mem_file_path: JAIL.memoryOut,
    }
    await this.#showing(machine, files, () =>
      this.#call(slot, 'PUT', '/snapshot/create', words, SNAPSHOT_WITHIN_MS),
    )
    if (!isDifference) await run('fallocate', ['--dig-holes', memory], { timeoutMs })
    for (const { file } of files) await seal(file)
    keepLimits(machine.directory, memoryDir)
  }

  /** Files that the jailed monitor may write while `action` runs; those that are not there begin empty. */
  async #showing(
    { slot, process }: RunningMachine,
    files: readonly { file: string; seen: string }[],
    action: () => Promise<void>,
  ): Promise<void> {
    const { mountIntoPath } = this.#options
    const pid = String(process.pid)
    const shown: string[] = []
    try {
      for (const { file, seen } of files) {
        writeFileSync(file, '', { mode: 0o600, flag: 'a' })
        await chown(file, slot.uidBase, slot.uidBase)
        await run(mountIntoPath, [pid, file, seen])
        shown.push(seen)
      }
      await action()
    } finally {
      for (const seen of shown) await run(mountIntoPath, [pid, seen]).catch(() => {})
    }
  }

  /** The guest's console is the monitor's standard output, which is a log of the engine's. */
  async console({ process }: RunningMachine): Promise<string> {
    return endOfLog(`/proc/${process.pid}/fd/1`, CONSOLE_BYTES)
  }

  forget(slot: Slot): void {
    removeJail(this.#options, slot)
  }

  async #configure(plan: MachinePlan): Promise<void> {
    const { slot, drives, tap } = plan
    const { rateLimits } = this.#options
    const put = (path: string, body: unknown): Promise<void> => this.#call(slot, 'PUT', path, body)
    await put('/machine-config', { vcpu_count: plan.vcpuCount, mem_size_mib: plan.memoryMib, smt: false })
    await put('/boot-source', {
      kernel_image_path: JAIL.kernel,
      initrd_path: JAIL.initramfs,
      boot_args: `${BOOT_WORDS} ${plan.kernelArguments}`,
    })
    for (const [index, { readOnly }] of drives.entries()) {
      const id = driveId(index)
      await put(`/drives/${id}`, {
        drive_id: id,
        path_on_host: JAIL.drive(index),
        is_root_device: false,
        is_read_only: readOnly,
        ...(readOnly ? {} : diskLimiter(rateLimits)),
      })
    }
    if (tap !== undefined)
      await put(`/network-interfaces/${NETWORK_ID}`, {
        iface_id: NETWORK_ID,
        host_dev_name: tap,
        guest_mac: guestMac,
        ...networkLimiters(rateLimits),
      })
    await put('/entropy', {})
    const reporting = traitsOf(this.#version).reportsFreePages ? { free_page_reporting: true } : {}
    await put('/balloon', { amount_mib: 0, deflate_on_oom: true, ...reporting })
  }

  #call(
    slot: Slot,
    method: 'PUT' | 'PATCH',
    path: string,
    body: unknown,
    withinMs = REQUEST_WITHIN_MS,
  ): Promise<void> {
    return callFirecracker(this.#socketPath(slot), method, path, body, withinMs * this.timeScale)
  }

  #socketPath(slot: Slot): string {
    return join(jailRoot(this.#options, slot), JAIL.control)
  }
}

/** There while all that has changed of the memory it was restored from would be in a difference. */
const basePath = ({ directory }: RunningMachine): string => join(directory, 'base')

/** Root's, for everybody to read, on the disk. */
async function seal(path: string): Promise<void> {
  await chown(path, 0, 0)
  await chmod(path, 0o444)
  await using file = await open(path, 'r')
  await file.sync()
}

async function versionOf(path: string): Promise<string | undefined> {
  try {
    const { stdout } = await run(path, ['--version'])
    return /v(\d+\.\d+\.\d+)/.exec(stdout)?.[1]
  } catch {
    return undefined
  }
}

const PROGRAM_HEADER_INTERPRETER = 3

/** An ELF program that asks for a loader. */
function isDynamic(path: string): boolean {
  const image = readFileSync(path)
  const start = Number(image.readBigUInt64LE(32))
  const [size, count] = [image.readUInt16LE(54), image.readUInt16LE(56)]
  return Array.from({ length: count }, (_, at) => image.readUInt32LE(start + at * size)).includes(
    PROGRAM_HEADER_INTERPRETER,
  )
}
