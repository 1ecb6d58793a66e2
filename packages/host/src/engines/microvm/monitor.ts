/** What the microvm engine asks of a virtual machine monitor: QEMU, or Firecracker under its jailer. */
import type { Slot } from '../../slots/slots.ts'
import type { StartedInit } from '../shim.ts'
import type { GuestImage } from './image/guest-image.ts'

/** A block device of the guest: the first is /dev/vda, the second /dev/vdb, in the order of the plan. */
export interface Drive {
  /** On this machine. The writable one belongs to the slot's first id, the others to root. */
  path: string
  readOnly: boolean
}

/** A machine as the engine lays it out; the same plan boots it and restores it. */
export interface MachinePlan {
  sandboxId: string
  slot: Slot
  /**
   * The machine's own directory, on tmpfs: control socket, pid file, whatever the monitor needs. The engine makes it
   * before `prepare`, for the slot's first id, and removes it when the machine is gone.
   */
  directory: string
  /** A directory on disk that goes with the sandbox, for large files of the monitor's own while it starts. */
  diskDirectory: string
  image: GuestImage
  vcpuCount: number
  memoryMib: number
  drives: readonly Drive[]
  /** What guest-init reads; a monitor adds what its machine needs (console, reboot). */
  kernelArguments: string
  /**
   * A tap in the slot's network namespace that the slot's first id may open; the guest's link address is `guestMac`.
   * Undefined is a machine without a network.
   */
  tap: string | undefined
  /** A directory that `snapshot` wrote, or undefined for a boot. */
  memoryDir: string | undefined
}

/** A machine that runs, also one that an earlier daemon started. */
export interface RunningMachine {
  slot: Slot
  directory: string
  process: StartedInit
}

/**
 * What the slot's shim does: cgroup and network namespace of the slot are the engine's to add, and what the program
 * says goes to a log of the engine's.
 */
export interface MonitorCommand {
  /** The monitor itself, or what becomes it; with `pidFile` what ends with 0 when the monitor runs. */
  program: readonly string[]
  environment?: Readonly<Record<string, string>>
  /** Seen by the monitor alone. Targets exist. */
  binds?: readonly { from: string; to: string }[]
  /** Becomes the monitor's root, with what is bound in it and nothing else; a jailer makes it itself. */
  root?: string
  /** A unix socket that listens before the program runs, which has it as descriptor `LISTEN_FD`. */
  listenPath?: string
  /** Where the pid of a monitor is found that the program leaves behind. */
  pidFile?: string
}

export interface MonitorSupport {
  usable: boolean
  version: string
  /** How machines run, or why they do not. */
  detail: string
  remedy: string
  /** False where it would be unreasonable to choose it unasked, as emulation is. */
  isFast: boolean
}

export interface Monitor {
  readonly name: 'firecracker' | 'qemu'
  /** Memory that the monitor's own process may take beside the guest's. */
  readonly overheadMib: number
  /** Threads and processes that the monitor may have beside one for each virtual processor. */
  readonly overheadPids: number
  /** Block devices that fit a machine, the writable one included. */
  readonly maxDrives: number
  /** Multiplies every time-out: 1, and more where guests or the monitor itself are emulated. */
  readonly timeScale: number
  /** Finds out what this machine has, without booting. Once, before anything else. */
  support(): Promise<MonitorSupport>
  /** What memory fits beside guest image, processor and agent: version, accelerator, layout of devices. */
  memoryClass(): string
  /** Makes files of its own in the machine's directory, and says what the shim executes. */
  prepare(plan: MachinePlan): Promise<MonitorCommand>
  /**
   * Makes the machine go, after `prepare`'s command: configures it where that is left to do, boots it or restores it.
   * Before the guest's first instruction the directory is root's, so that no name in it is the guest's to choose.
   */
  launch(plan: MachinePlan, machine: RunningMachine): Promise<void>
  /** Idempotent. Everything the guest has written is in the files of its drives afterwards. */
  pause(machine: RunningMachine): Promise<void>
  /** Idempotent. @param afterCapture a snapshot may still be being written: it is waited for as long as one takes */
  resume(machine: RunningMachine, how?: { afterCapture: boolean }): Promise<void>
  /** Writes memory and device state of a paused machine into an empty directory. The machine stays paused. */
  snapshot(machine: RunningMachine, memoryDir: string): Promise<void>
  /** Last output of the guest's console, as far as it is kept, and the same again when asked again. */
  console(machine: RunningMachine): Promise<string>
  /** Takes away what there is of a machine outside of its directory, when nothing runs in the slot. Idempotent. */
  forget(slot: Slot): void
}
