import { readFileSync } from 'node:fs'
import type { Cgroup } from '../../linux/cgroup.ts'
import { settled } from '../../linux/cgroup-files.ts'
import { RUN_WITHIN_MS } from '../shim.ts'

const lookEveryMs = 5
/** Where the kernel holds a task that a signal stopped. */
const STOPPED_IN = 'do_signal_stop'

/**
 * Runs a dump of a frozen group in which tasks may be stopped by a signal. The freezer of cgroup v1 holds such a task
 * so that whoever wants to trace it waits for the thaw: the group is thawed when that happens. Nothing runs on: CRIU
 * holds the others by then or takes them next, and freezes the group again before it lets go.
 */
export async function freeingStopped<T>(cgroup: Cgroup, dump: Promise<T>): Promise<T> {
  const stopped = cgroup.pids().filter((pid) => readIfThere(`/proc/${pid}/wchan`) === STOPPED_IN)
  if (stopped.length === 0) return await dump
  const timer = setInterval(() => {
    if (stopped.some(isWaitedFor)) cgroup.thaw()
  }, lookEveryMs)
  try {
    return await dump
  } finally {
    clearInterval(timer)
  }
}

/** Waits until nobody traces the process: a dump that an earlier daemon began comes to its end, however large it is. */
export async function untraced(pid: number): Promise<void> {
  if (await settled(() => !isTraced(pid), RUN_WITHIN_MS)) return
  throw new Error(`process ${pid} is still being traced after ${RUN_WITHIN_MS} ms`)
}

const isWaitedFor = (pid: number): boolean =>
  isTraced(pid) && /^State:\tD/m.test(readIfThere(`/proc/${pid}/status`))

const isTraced = (pid: number): boolean => /^TracerPid:\t[1-9]/m.test(readIfThere(`/proc/${pid}/status`))

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}
