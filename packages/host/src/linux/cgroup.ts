/** What a control group is, whichever version of the kernel's interface it has. */

export interface CgroupLimits {
  memoryMib: number
  /**
   * Above this, less than `memoryMib`, the kernel slows down whoever takes more. Only where it can (cgroup v2);
   * undefined: nowhere.
   */
  memorySlowMib?: number
  pids: number
  /** May be fractional; a hard ceiling, not a reservation. */
  cpuCount: number
  /** Share under contention relative to other groups, 1..10,000; default 100. */
  cpuWeight?: number
}

export interface CgroupUsage {
  cpuUsec: number
  memoryBytes: number
  memoryCacheBytes: number
  pids: number
  oomKills: number
}

/** One group: a directory in each hierarchy that is needed. Calls other than `create` need it to exist. */
export interface Cgroup {
  /** Directories whose `cgroup.procs` a process must be written to, one per hierarchy. */
  readonly paths: readonly string[]
  /** Idempotent. A group that was removed and created again has all counters at zero. */
  create(): void
  /** Memory is without swap. May be called again to change limits of a running group. */
  setLimits(limits: CgroupLimits): void
  add(pid: number): void
  /** Processes in the group and in groups below it. */
  pids(): number[]
  /** Resolves when every task is stopped. Throws when that takes longer than 2 s. */
  freeze(): Promise<void>
  thaw(): void
  /** Kills everything in the group, frozen or not, and waits until it is empty. Throws after 5 s. Idempotent. */
  killAll(): Promise<void>
  usage(): CgroupUsage
  /**
   * Memory in bytes that the kernel could not take back by dropping what is in files. Exact only from `exactAboveBytes`
   * on, and cheap below: called often.
   */
  heldMemoryBytes(exactAboveBytes: number): number
  /** Kills, then removes the group and those below. Idempotent. */
  remove(): Promise<void>
}
