/** Control groups of one instance, on machines with cgroup v2 and with v1 (also hybrid: controllers on v1). */
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Cgroup } from './cgroup.ts'
import { removeCgroupTree } from './cgroup-files.ts'
import { CgroupV1 } from './cgroup-v1.ts'
import { CgroupV2, enableControllers } from './cgroup-v2.ts'
import { type MountEntry, mountTable } from './mount-table.ts'

export type CgroupLayout =
  | { version: 2; root: string }
  | { version: 1; memory: string; pids: string; cpu: string; cpuacct: string; freezer: string }

const controllersV1 = ['memory', 'pids', 'cpu', 'cpuacct', 'freezer'] as const

/** Which hierarchies this machine offers. Throws when a needed controller is nowhere. */
export function detectCgroups(mounts: readonly MountEntry[] = mountTable()): CgroupLayout {
  const unified = mounts.find((entry) => entry.fileSystem === 'cgroup2')
  if (unified && hasControllersV2(unified.target)) return { version: 2, root: unified.target }
  const [memory, pids, cpu, cpuacct, freezer] = controllersV1.map(
    (controller) =>
      mounts.find((entry) => entry.fileSystem === 'cgroup' && entry.superOptions.includes(controller))
        ?.target,
  )
  if (memory && pids && cpu && cpuacct && freezer) return { version: 1, memory, pids, cpu, cpuacct, freezer }
  throw new Error('no usable cgroups: neither cgroup2 nor v1 hierarchies offer memory, pids and cpu control')
}

export interface CgroupRootOptions {
  /** Instance name: the directory that holds all its groups. */
  instance: string
  layout?: CgroupLayout
}

/** The directory of one instance in each hierarchy, and the groups of its slots in it. */
export class CgroupRoot {
  readonly layout: CgroupLayout
  readonly #instance: string

  constructor(options: CgroupRootOptions) {
    this.#instance = options.instance
    this.layout = options.layout ?? detectCgroups()
  }

  /** Makes the instance's directories and hands them the controllers. Idempotent. */
  prepare(): void {
    for (const dir of this.#directories()) mkdirSync(dir, { recursive: true })
    if (this.layout.version !== 2) return
    enableControllers(this.layout.root)
    enableControllers(join(this.layout.root, this.#instance))
  }

  /** The group `name` below the instance's; nothing is created yet. */
  cgroup(name: string): Cgroup {
    const { layout } = this
    if (layout.version === 2) return new CgroupV2(join(layout.root, this.#instance, name))
    const at = (hierarchy: string): string => join(hierarchy, this.#instance, name)
    return new CgroupV1({
      memory: at(layout.memory),
      pids: at(layout.pids),
      cpu: at(layout.cpu),
      cpuacct: at(layout.cpuacct),
      freezer: at(layout.freezer),
    })
  }

  /** Names of all groups that exist below the instance's in any hierarchy. */
  list(): string[] {
    const names = new Set<string>()
    for (const dir of this.#directories()) {
      if (!existsSync(dir)) continue
      for (const entry of readdirSync(dir, { withFileTypes: true }))
        if (entry.isDirectory()) names.add(entry.name)
    }
    return [...names]
  }

  /** Removes every group and the instance's own directories. Idempotent. */
  async remove(): Promise<void> {
    for (const name of this.list()) await this.cgroup(name).remove()
    for (const dir of this.#directories()) await removeCgroupTree(dir)
  }

  #directories(): string[] {
    const { layout } = this
    if (layout.version === 2) return [join(layout.root, this.#instance)]
    return [...new Set(controllersV1.map((controller) => layout[controller]))].map((root) =>
      join(root, this.#instance),
    )
  }
}

function hasControllersV2(root: string): boolean {
  const offered = readFileSync(join(root, 'cgroup.controllers'), 'utf8').trim().split(' ')
  return ['memory', 'pids', 'cpu'].every((controller) => offered.includes(controller))
}
