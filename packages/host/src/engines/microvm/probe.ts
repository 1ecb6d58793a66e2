import { chmodSync, chownSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { isDiskFull } from '../../linux/shortage.ts'
import type { Upper } from '../../storage/uppers.ts'
import type { EngineReport } from '../engine.ts'
import { message, type ProbeMachine, probeSlot, unusable, usable } from '../probe.ts'
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
const LOOK_AGAIN_MS = 25
const REMEDY = 'KVM must work: a machine of its own, or nested virtualisation turned on in the hypervisor'
/** As guest-init says it. */
const GUEST_RUNS = 'a guest runs'

export interface MonitorProbe extends ProbeMachine {
  image: GuestImage
  mayEmulate: boolean
}

/**
 * Boots a guest without disk and network, and waits for its word. Failures are answers, as of `inProbeSlot`. Leaves
 * nothing.
 */
export async function probeMonitor(monitor: Monitor, options: MonitorProbe): Promise<EngineReport> {
  const { mayEmulate, probe } = options
  const { usable: isUsable, version, detail, remedy, isFast } = await monitor.support()
  if (!isUsable) return unusable(version, detail, remedy)
  if (!isFast && !mayEmulate) return unusable(version, `${detail}; only where it is asked for`, '')
  const upper = await probe.take()
  try {
    await boot(monitor, options, upper)
    return usable(`${version}, ${options.image.kernel}`, detail, '')
  } catch (error) {
    if (isDiskFull(error)) throw error
    return unusable(version, `${detail}: no guest comes up: ${message(error)}`, REMEDY)
  } finally {
    await probe.give(upper)
  }
}

async function boot(monitor: Monitor, options: MonitorProbe, upper: Upper): Promise<void> {
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
    await guestSpeaks(monitor, machine, shim)
  } catch (error) {
    throw new Error(`${message(error)}${lastWords(logPath)}`, { cause: error })
  } finally {
    await cgroup.remove()
    // It writes how the guest ended, where the next guest's files would be.
    await shim.end()
    monitor.forget(plan.slot)
    rmSync(dir, { recursive: true, force: true })
  }
}

/** The console is all that such a guest has to speak with, and it says nothing when there is news. */
async function guestSpeaks(monitor: Monitor, machine: RunningMachine, shim: Shim): Promise<void> {
  const withinMs = BOOT_WITHIN_MS * monitor.timeScale
  const endsAtMs = performance.now() + withinMs
  for (;;) {
    // Asked in this order: what has ended says nothing more.
    const isOver = !shim.usable || performance.now() > endsAtMs
    const said = await monitor.console(machine)
    if (said.includes(GUEST_RUNS)) return
    if (isOver) {
      const what = shim.usable ? `was silent for ${withinMs} ms` : 'ended before it spoke'
      throw new Error(`it ${what}; its console ends with '${said.slice(-200).trim()}'`)
    }
    await pause(LOOK_AGAIN_MS)
  }
}

function probePlan(
  { image, probe }: MonitorProbe,
  upper: Upper,
  directory: string,
  cgroupPaths: readonly string[],
): MachinePlan {
  return {
    sandboxId: 'probe',
    slot: probeSlot(PROBE_SLOT, probe.uidBase, cgroupPaths, ''),
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
