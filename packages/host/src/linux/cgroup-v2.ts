import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Cgroup, CgroupLimits, CgroupUsage } from './cgroup.ts'
import {
  processesUnder,
  readKey,
  readKeys,
  readNumber,
  removeCgroupTree,
  settled,
  writeControl,
} from './cgroup-files.ts'

const cpuPeriodUsec = 100_000
const freezeTimeoutMs = 2_000
const killTimeoutMs = 5_000

/** Lets groups below `dir` have the controllers. Throws EBUSY where `dir` itself holds processes. Idempotent. */
export function enableControllers(dir: string): void {
  const control = join(dir, 'cgroup.subtree_control')
  const enabled = readFileSync(control, 'utf8').trim().split(' ')
  const missing = ['memory', 'pids', 'cpu'].filter((controller) => !enabled.includes(controller))
  if (missing.length > 0) writeControl(control, missing.map((controller) => `+${controller}`).join(' '))
}

export class CgroupV2 implements Cgroup {
  readonly paths: readonly string[]
  readonly #dir: string

  constructor(dir: string) {
    this.#dir = dir
    this.paths = [dir]
  }

  create(): void {
    mkdirSync(this.#dir, { recursive: true })
  }

  setLimits(limits: CgroupLimits): void {
    writeControl(join(this.#dir, 'memory.max'), limits.memoryMib * 1024 * 1024)
    const { memorySlowMib } = limits
    writeControl(
      join(this.#dir, 'memory.high'),
      memorySlowMib === undefined ? 'max' : memorySlowMib * 1024 * 1024,
    )
    const swap = join(this.#dir, 'memory.swap.max')
    if (existsSync(swap)) writeControl(swap, 0)
    writeControl(join(this.#dir, 'pids.max'), limits.pids)
    writeControl(
      join(this.#dir, 'cpu.max'),
      `${Math.round(limits.cpuCount * cpuPeriodUsec)} ${cpuPeriodUsec}`,
    )
    writeControl(join(this.#dir, 'cpu.weight'), limits.cpuWeight ?? 100)
  }

  add(pid: number): void {
    writeControl(join(this.#dir, 'cgroup.procs'), pid)
  }

  pids(): number[] {
    return processesUnder(this.#dir)
  }

  async freeze(): Promise<void> {
    writeControl(join(this.#dir, 'cgroup.freeze'), 1)
    if (await settled(() => this.#event('frozen') === 1, freezeTimeoutMs)) return
    this.thaw()
    throw new Error(`${this.#dir} did not freeze within ${freezeTimeoutMs} ms`)
  }

  thaw(): void {
    writeControl(join(this.#dir, 'cgroup.freeze'), 0)
  }

  /** `cgroup.kill` (Linux 5.14) reaches groups below, frozen tasks and forks in flight. */
  async killAll(): Promise<void> {
    if (!existsSync(this.#dir)) return
    writeControl(join(this.#dir, 'cgroup.kill'), 1)
    if (!(await settled(() => this.#event('populated') === 0, killTimeoutMs))) {
      throw new Error(`processes in ${this.#dir} survive SIGKILL`)
    }
    this.thaw()
  }

  usage(): CgroupUsage {
    return {
      cpuUsec: readKey(join(this.#dir, 'cpu.stat'), 'usage_usec'),
      memoryBytes: readNumber(join(this.#dir, 'memory.current')),
      memoryCacheBytes: readKey(join(this.#dir, 'memory.stat'), 'file'),
      pids: readNumber(join(this.#dir, 'pids.current')),
      oomKills: readKey(join(this.#dir, 'memory.events'), 'oom_kill'),
    }
  }

  heldMemoryBytes(exactAboveBytes: number): number {
    const usage = readNumber(join(this.#dir, 'memory.current'))
    if (usage < exactAboveBytes) return usage
    return usage - readKeys(join(this.#dir, 'memory.stat'), ['inactive_file', 'active_file'])
  }

  async remove(): Promise<void> {
    await this.killAll()
    await removeCgroupTree(this.#dir)
  }

  #event(key: 'frozen' | 'populated'): number {
    return readKey(join(this.#dir, 'cgroup.events'), key)
  }
}
