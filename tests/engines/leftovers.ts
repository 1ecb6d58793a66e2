import { globSync, readFileSync } from 'node:fs'
import type { TestHost } from '../system/harness/test-host.ts'

/** What an idle host may have of sandboxes that are gone, by kind. Equal before and after: nothing leaked. */
export interface Leftovers {
  processes: number
  mounts: number
  journalEntries: number
}

/** @throws when nothing of the instance is there, since then nothing would be counted */
export async function leftovers({ instance, runDir, stateDir }: TestHost): Promise<Leftovers> {
  const members = globSync(`/sys/fs/cgroup/{*/,}${instance}/*/cgroup.procs`)
  if (members.length === 0) throw new Error(`there are no cgroups of ${instance}`)
  const pids = new Set(members.flatMap((path) => readFileSync(path, 'utf8').split('\n').filter(Boolean)))
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8').split('\n')
  return {
    processes: pids.size,
    mounts: mounts.filter((line) => line.includes(` ${runDir}/slots/`) && !line.includes('sysfs')).length,
    journalEntries: globSync(`${stateDir}/journal/*`).length,
  }
}
