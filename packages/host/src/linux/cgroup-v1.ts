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
import { errorCode } from './libc.ts'

const cpuPeriodUsec = 100_000
const freezeTimeoutMs = 2_000
const killRounds = 10
const killRoundTimeoutMs = 500

export interface CgroupV1Paths {
  memory: string
  pids: string
  cpu: string
  cpuacct: string
  freezer: string
}

export class CgroupV1 implements Cgroup {
  readonly paths: readonly string[]
  readonly #at: CgroupV1Paths

  constructor(paths: CgroupV1Paths) {
    this.#at = paths
    this.paths = [...new Set([paths.memory, paths.pids, paths.cpu, paths.cpuacct, paths.freezer])]
  }

  create(): void {
    for (const path of this.paths) mkdirSync(path, { recursive: true })
  }

  setLimits(limits: CgroupLimits): void {
    const bytes = limits.memoryMib * 1024 * 1024
    const swapLimit = join(this.#at.memory, 'memory.memsw.limit_in_bytes')
    const countsSwap = existsSync(swapLimit)
    // The kernel refuses a memory limit above the memory+swap limit, whichever way both move.
    if (countsSwap) writeControl(swapLimit, -1)
    writeControl(join(this.#at.memory, 'memory.limit_in_bytes'), bytes)
    if (countsSwap) writeControl(swapLimit, bytes)
    writeControl(join(this.#at.pids, 'pids.max'), limits.pids)
    writeControl(join(this.#at.cpu, 'cpu.cfs_period_us'), cpuPeriodUsec)
    writeControl(join(this.#at.cpu, 'cpu.cfs_quota_us'), Math.round(limits.cpuCount * cpuPeriodUsec))
    writeControl(join(this.#at.cpu, 'cpu.shares'), Math.round(((limits.cpuWeight ?? 100) * 1024) / 100))
  }

  add(pid: number): void {
    for (const path of this.paths) writeControl(join(path, 'cgroup.procs'), pid)
  }

  pids(): number[] {
    return processesUnder(this.#at.freezer)
  }

  async freeze(): Promise<void> {
    this.#setState('FROZEN')
    // v1 sends no event: the state moves from FREEZING to FROZEN when it is read.
    if (await settled(() => this.#state() === 'FROZEN', freezeTimeoutMs)) return
    this.thaw()
    throw new Error(`${this.#at.freezer} did not freeze within ${freezeTimeoutMs} ms`)
  }

  thaw(): void {
    this.#setState('THAWED')
  }

  /** Freezing first stops forks, and a frozen process keeps its pid: one pass reaches all, and only them. */
  async killAll(): Promise<void> {
    for (let round = 0; round < killRounds; round++) {
      if (this.pids().length === 0) {
        if (existsSync(this.#at.freezer)) this.thaw()
        return
      }
      this.#setState('FROZEN')
      await settled(() => this.#state() === 'FROZEN', 100)
      for (const pid of this.pids()) kill(pid)
      this.thaw()
      await settled(() => this.pids().length === 0, killRoundTimeoutMs)
    }
    if (this.pids().length > 0) throw new Error(`processes in ${this.#at.freezer} survive SIGKILL`)
  }

  usage(): CgroupUsage {
    return {
      cpuUsec: Math.round(readNumber(join(this.#at.cpuacct, 'cpuacct.usage')) / 1_000),
      memoryBytes: readNumber(join(this.#at.memory, 'memory.usage_in_bytes')),
      memoryCacheBytes: readKey(join(this.#at.memory, 'memory.stat'), 'total_cache'),
      pids: readNumber(join(this.#at.pids, 'pids.current')),
      oomKills: readKey(join(this.#at.memory, 'memory.oom_control'), 'oom_kill'),
    }
  }

  heldMemoryBytes(exactAboveBytes: number): number {
    const usage = readNumber(join(this.#at.memory, 'memory.usage_in_bytes'))
    if (usage < exactAboveBytes) return usage
    return (
      usage - readKeys(join(this.#at.memory, 'memory.stat'), ['total_inactive_file', 'total_active_file'])
    )
  }

  async remove(): Promise<void> {
    await this.killAll()
    for (const path of this.paths) await removeCgroupTree(path)
  }

  #state(): string {
    return readFileSync(join(this.#at.freezer, 'freezer.state'), 'utf8').trim()
  }

  #setState(state: 'FROZEN' | 'THAWED'): void {
    writeControl(join(this.#at.freezer, 'freezer.state'), state)
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if (errorCode(error) !== 'ESRCH') throw error
  }
}
