import { chmodSync, chownSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { CgroupRoot } from '../../linux/cgroup.ts'
import type { Slot } from '../../slots.ts'
import type { Upper } from '../../storage/uppers.ts'
import type { EngineReport } from '../engine.ts'
import { NEW_NETWORK, Shim } from '../shim.ts'
import type { GuestImage } from './image/guest-image.ts'
import { lastWords } from './machine-files.ts'
import type { MachinePlan, Monitor, RunningMachine } from './monitor.ts'

const MEMORY_MIB = 128
const PIDS_BESIDE = 2
/** No real slot has this number. */
const PROBE_SLOT = 999_999
/** A guest of this machine's own processor runs after a tenth of it. */
const BOOT_WITHIN_MS = 9_000
/** Times its scale, for one of an emulated processor: it takes seconds, unless it stands still. */
const EMULATED_BOOT_WITHIN_MS = 2_000
const LOOK_AGAIN_MS = 25
const EMULATED_ATTEMPTS = 3
const REMEDY = 'KVM must work: a machine of its own, or nested virtualisation turned on in the hypervisor'
/** As guest-init says it. */
const GUEST_RUNS = 'a guest runs'

export interface ProbeOptions {
  runDir: string
  shimPath: string
  image: GuestImage
  cgroups: CgroupRoot
  mayEmulate: boolean
  probe: { take: () => Promise<Upper>; give: (upper: Upper) => Promise<void>; uidBase: number }
}

/** Boots a guest without disk and network, and waits for its word. Every failure is an answer. Leaves nothing. */
export async function probeMonitor(monitor: Monitor, options: ProbeOptions): Promise<EngineReport> {
  const { mayEmulate, probe } = options
  const { usable, version, detail, remedy, isFast } = await monitor.support()
  if (!usable) return { usable, version, detail, remedy }
  if (!isFast && !mayEmulate)
    return { usable: false, version, detail: `${detail}; only where it is asked for`, remedy: '' }
  const upper = await probe.take()
  try {
    await bootWithPatience(monitor, options, upper, isFast)
    return { usable: true, version: `${version}, ${options.image.kernel}`, detail, remedy: '' }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    return {
      usable: false,
      version,
      detail: `${detail}: no guest comes up: ${reason}`,
      remedy: REMEDY,
    }
  } finally {
    await probe.give(upper)
  }
}

/** An emulated guest now and then stands still before its first word, and does not when it is started anew. */
async function bootWithPatience(
  monitor: Monitor,
  options: ProbeOptions,
  upper: Upper,
  isFast: boolean,
): Promise<void> {
  const withinMs = isFast ? BOOT_WITHIN_MS : EMULATED_BOOT_WITHIN_MS
  for (let attempt = isFast ? EMULATED_ATTEMPTS : 1; ; attempt++) {
    try {
      return await boot(monitor, options, upper, withinMs * monitor.timeScale)
    } catch (error) {
      if (attempt >= EMULATED_ATTEMPTS) throw error
    }
  }
}

async function boot(monitor: Monitor, options: ProbeOptions, upper: Upper, withinMs: number): Promise<void> {
  const { runDir, shimPath, cgroups } = options
  const dir = join(runDir, 'slots', String(PROBE_SLOT))
  const cgroup = cgroups.cgroup(String(PROBE_SLOT))
  const plan = probePlan(options, upper, join(dir, 'machine'), cgroup.paths)
  const logPath = join(dir, 'log')
  const shim = new Shim(shimPath)
  try {
    rmSync(dir, { recursive: true, force: true })
    mkdirSync(plan.directory, { recursive: true })
    for (const path of [dir, plan.directory]) chmodSync(path, 0o711)
    chownSync(plan.directory, plan.slot.uidBase, plan.slot.uidBase)
    cgroup.create()
    const memoryMib = MEMORY_MIB + monitor.overheadMib
    cgroup.setLimits({ cpuCount: 1, memoryMib, pids: monitor.overheadPids + PIDS_BESIDE })
    const { pidFile, ...command } = await monitor.prepare(plan)
    const process = await shim.start({
      ...command,
      id: plan.sandboxId,
      cgroupPaths: cgroup.paths,
      netns: NEW_NETWORK,
      logPath,
      sandbox: { pidFile, startedFile: join(dir, 'started'), exitFile: join(dir, 'exit') },
    })
    const machine = { slot: plan.slot, directory: plan.directory, process }
    await monitor.launch(plan, machine)
    await guestSpeaks(monitor, machine, withinMs)
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new Error(`${reason}${lastWords(logPath)}`, { cause: error })
  } finally {
    shim.discard()
    await cgroup.remove()
    monitor.forget(plan.slot)
    rmSync(dir, { recursive: true, force: true })
  }
}

/** The console is all that such a guest has to speak with, and it says nothing when there is news. */
async function guestSpeaks(monitor: Monitor, machine: RunningMachine, withinMs: number): Promise<void> {
  const endsAtMs = performance.now() + withinMs
  for (;;) {
    const said = await monitor.console(machine)
    if (said.includes(GUEST_RUNS)) return
    if (performance.now() > endsAtMs)
      throw new Error(`it was silent for ${withinMs} ms; its console ends with '${said.slice(-200).trim()}'`)
    await pause(LOOK_AGAIN_MS)
  }
}

function probePlan(
  { image, probe }: ProbeOptions,
  upper: Upper,
  directory: string,
  cgroupPaths: readonly string[],
): MachinePlan {
  const slot: Slot = {
    index: PROBE_SLOT,
    netnsPath: NEW_NETWORK,
    address: '',
    uidBase: probe.uidBase,
    cgroupPaths,
    sysfsPath: '',
  }
  return {
    sandboxId: 'probe',
    slot,
    directory,
    diskDirectory: upper.path,
    image,
    vcpuCount: 1,
    memoryMib: MEMORY_MIB,
    drives: [],
    kernelArguments: 'e2b.probe',
    tap: undefined,
    memoryDir: undefined,
  }
}
