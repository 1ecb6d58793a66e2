/**
 * The agent must answer while its guest starves itself of processor time, and lives in the guest's control group. So
 * it comes first in there, by the kernel's niceness: only this machine can lower it, the guest cannot, and what the
 * agent starts sets its own back. Between sandboxes niceness counts nothing.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { checked, errorCode, libcFunction } from '../../linux/libc.ts'

const setpriorityCall = libcFunction('setpriority', 'int', ['int', 'uint', 'int'])
const PRIO_PROCESS = 0
const FAVOURED = -20
const EVEN = 0
/** The agent, and before its program is loaded the copy of init that becomes it. */
const AGENT_COMMAND = /\/\.e2b\/(bin\/init|envd\.mjs)/
/** Threads that are born while others are looked at inherit the old value: a second look finds them. */
const LOOKS = 2

/** Puts init, which starts the agent anew when it ends, and the agent before all others. @param initPid here */
export function favourAgent(initPid: number): void {
  for (let look = 0; look < LOOKS; look++) setNice(initPid, FAVOURED)
}

/** Takes that back: a restore may not set what a dump has recorded, as it runs without rights over this machine. */
export function unfavourAgent(initPid: number): void {
  setNice(initPid, EVEN)
}

function setNice(initPid: number, nice: number): void {
  const agents = childrenOf(initPid).filter((pid) => AGENT_COMMAND.test(read(`/proc/${pid}/cmdline`)))
  for (const pid of [initPid, ...agents]) for (const thread of threadsOf(pid)) setNiceOf(thread, nice)
}

function setNiceOf(thread: number, nice: number): void {
  try {
    checked(setpriorityCall(PRIO_PROCESS, thread, nice), 'setpriority', String(thread))
  } catch (error) {
    // It has ended; or this daemon runs without the right, and the agent is one among all.
    if (errorCode(error) !== 'ESRCH' && errorCode(error) !== 'EACCES') throw error
  }
}

const childrenOf = (pid: number): number[] =>
  read(`/proc/${pid}/task/${pid}/children`).split(' ').filter(Boolean).map(Number)

function threadsOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`).map(Number)
  } catch {
    return []
  }
}

/** Empty when the process has ended. */
function read(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}
