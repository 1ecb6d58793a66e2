import { existsSync } from 'node:fs'
import type { Cgroup } from '../linux/cgroup.ts'

/** Whether the kernel killed something of a slot for its memory since the sandbox in it was started. */
export class MemoryKills {
  readonly #atStart = new Map<number, number>()

  /** Before the sandbox runs. @param index of its slot */
  begin(index: number, cgroup: Cgroup): void {
    this.#atStart.set(index, cgroup.usage().oomKills)
  }

  /** False when the group is gone: the slot was given back. */
  happened(index: number, cgroup: Cgroup): boolean {
    if (!existsSync(cgroup.paths[0]!)) return false
    return cgroup.usage().oomKills > (this.#atStart.get(index) ?? 0)
  }

  forget(index: number): void {
    this.#atStart.delete(index)
  }
}
