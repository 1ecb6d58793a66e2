import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Journal, readBootId } from '../../../packages/host/src/cells/journal.ts'

/** Memory of running processes, seen from the host. */

const EVERY_MS = 25
const KIB_PER_MIB = 1024

/** Pid on the host of the agent in a sandbox. @param stateDir of the server that runs it */
export function agentPid(stateDir: string, sandboxId: string): number {
  const { entries } = new Journal(join(stateDir, 'journal'), readBootId()).read()
  const init = entries.find((entry) => entry.sandboxId === sandboxId)?.initPid
  const children = readFileSync(`/proc/${init}/task/${init}/children`, 'utf8').split(' ').filter(Boolean)
  const pid = children.find((child) => commandLine(Number(child)).includes('envd'))
  if (!pid) throw new Error(`sandbox ${sandboxId} has no agent`)
  return Number(pid)
}

/** Arguments of a process, space-separated; empty when it has gone. */
export function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ')
  } catch {
    return ''
  }
}

/** Memory of its own, in MiB: pages of program files come and go with use and are the kernel's to drop. */
const ownMib = (pid: number): number =>
  Number(/^RssAnon:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / KIB_PER_MIB

/** By how many MiB each of the processes grew at most while `work` ran. */
export async function growthWhile<Name extends string>(
  pids: Readonly<Record<Name, number>>,
  work: () => Promise<unknown>,
): Promise<Record<Name, number>> {
  const names = Object.keys(pids) as Name[]
  const before = names.map((name) => ownMib(pids[name]))
  const growth = names.map(() => 0)
  let isDone = false
  const sampling = (async () => {
    while (!isDone) {
      for (const [at, name] of names.entries())
        growth[at] = Math.max(growth[at]!, ownMib(pids[name]) - before[at]!)
      await delay(EVERY_MS)
    }
  })()
  try {
    await work()
  } finally {
    isDone = true
    await sampling
  }
  return Object.fromEntries(names.map((name, at) => [name, growth[at]!])) as Record<Name, number>
}
