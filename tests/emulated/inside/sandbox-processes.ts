import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

/** What runs sandboxes, as this machine sees it: processes in the cgroups of their slots. */

const CGROUPS = '/sys/fs/cgroup/e2b'
/** The address of slot 0 ends so; slots have addresses in order. */
const FIRST_ADDRESS = 2
/** Below are people and services of the machine. */
const FIRST_SANDBOX_UID = 0x5000_0000

export const slotOf = (address: string): number => Number(address.split('.').at(-1)) - FIRST_ADDRESS

/** A file of the sandbox's cgroup. */
export const cgroupFile = (address: string, name: string): string =>
  readText(join(CGROUPS, String(slotOf(address)), name)).trim()

/** Names of slots in which something runs. */
export const busySlots = (): string[] =>
  names(CGROUPS).filter((name) => readText(join(CGROUPS, name, 'cgroup.procs')).trim() !== '')

/** Every thread is filtered, and nobody outside. @throws AssertionError when one is not */
export function assertConfined(address: string): Record<string, unknown> {
  const pids = cgroupFile(address, 'cgroup.procs').split('\n').filter(Boolean)
  const threads = pids.flatMap((pid) =>
    names(`/proc/${pid}/task`).map((thread) => readText(`/proc/${pid}/task/${thread}/status`)),
  )
  // Those that have ended meanwhile say nothing.
  const said = threads.filter((status) => status !== '')
  assert.ok(said.length > 1, `${said.length} threads`)
  for (const status of said) {
    assert.match(status, /^Seccomp:\s*2$/m)
    for (const id of /^Uid:\s*(.*)$/m.exec(status)![1]!.split('\t'))
      assert.ok(Number(id) >= FIRST_SANDBOX_UID, status)
  }
  return { processes: pids.length, threads: said.length }
}

function names(dir: string): string[] {
  try {
    return readdirSync(dir)
  } catch {
    return []
  }
}

export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
