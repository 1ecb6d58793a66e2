import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** What runs sandboxes, as this machine sees it: processes in the cgroups of their slots. */

const CGROUPS = '/sys/fs/cgroup/e2b'
/** The address of slot 0 ends so; slots have addresses in order. */
const FIRST_ADDRESS = 2
/** Below are people and services of the machine. */
const FIRST_SANDBOX_UID = 0x5000_0000
const WATCHED_MS = 1_000
/** Of the functions of the kernel that a thread is in. */
const STACK_DEPTH = 6

export const slotOf = (address: string): number => Number(address.split('.').at(-1)) - FIRST_ADDRESS

/** A file of the sandbox's cgroup. */
export const cgroupFile = (address: string, name: string): string =>
  readText(join(CGROUPS, String(slotOf(address)), name)).trim()

/** Names of slots in which something runs. */
export const busySlots = (): string[] =>
  names(CGROUPS).filter((name) => readText(join(CGROUPS, name, 'cgroup.procs')).trim() !== '')

/** What each sandbox does and waits for, and what holds it back: for who reads why a case has failed. */
export async function describeSandboxes(): Promise<string> {
  const slots = busySlots()
  const usedUsec = (slot: string): number =>
    Number(/^usage_usec (\d+)$/m.exec(readText(join(CGROUPS, slot, 'cpu.stat')))?.[1])
  const before = slots.map(usedUsec)
  await delay(WATCHED_MS)
  return slots.map((slot, index) => describeSlot(slot, usedUsec(slot) - before[index]!)).join('\n')
}

function describeSlot(slot: string, usedUsec: number): string {
  const file = (name: string): string =>
    readText(join(CGROUPS, slot, name))
      .trim()
      .replaceAll('\n', ' ')
  const threads = file('cgroup.procs')
    .split(' ')
    .flatMap((pid) =>
      names(`/proc/${pid}/task`).map((thread) => describeThread(`/proc/${pid}/task/${thread}`)),
    )
  const memory = `${file('memory.current')} of ${file('memory.max')} bytes, ${file('memory.events')}`
  return [`slot ${slot}: ran ${usedUsec} µs of ${WATCHED_MS} ms; ${memory}`, ...threads].join('\n')
}

function describeThread(directory: string): string {
  const state = /^State:\s*(.*)$/m.exec(readText(`${directory}/status`))?.[1] ?? 'gone'
  const stack = [...readText(`${directory}/stack`).matchAll(/^\[.*?\] (\S+?)\+/gm)].map(([, name]) => name)
  return `  ${readText(`${directory}/comm`).trim()}: ${state}, in ${stack.slice(0, STACK_DEPTH).join(' < ')}`
}

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
