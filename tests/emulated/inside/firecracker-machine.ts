import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { request } from 'node:http'
import { text } from 'node:stream/consumers'
import { readText, slotOf } from './sandbox-processes.ts'

/** A machine of Firecracker as this machine sees it. */

const PROGRAM = 'firecracker'
const KIBIBYTE = 1024

/** Of every monitor that runs. */
export function monitorPids(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && readText(`/proc/${name}/comm`).trim() === PROGRAM)
    .map(Number)
}

/** Of the one that runs the sandbox at this address: slots have addresses in order. */
export function monitorPid(address: string): number {
  const slot = slotOf(address)
  const found = monitorPids().find((pid) => readText(`/proc/${pid}/cgroup`).trim().endsWith(`/${slot}`))
  assert.ok(found, `a monitor runs in slot ${slot}`)
  return found
}

export interface MemoryUse {
  rssMib: number
  pssMib: number
  /** Of the file that the guest's memory came from. */
  mappedMib: number
  /** Pages of that file that another machine has mapped, too. */
  sharedMib: number
  /** Pages that are this machine's own. */
  ownMib: number
}

export function memoryUse(pid: number): MemoryUse {
  const blocks = readText(`/proc/${pid}/smaps`).split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)
  const sum = (name: string, among: readonly string[]): number =>
    among.reduce(
      (total, block) => total + Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(block)?.[1] ?? 0),
      0,
    ) / KIBIBYTE
  const guest = blocks.filter((block) => /^\S+ \S+ \S+ \S+ \d+ +\/memory$/m.test(block))
  const round = (mib: number): number => Math.round(mib * 10) / 10
  return {
    rssMib: round(sum('Rss', blocks)),
    pssMib: round(sum('Pss', blocks)),
    mappedMib: round(sum('Size', guest)),
    sharedMib: round(sum('Shared_Clean', guest)),
    ownMib: round(sum('Anonymous', blocks)),
  }
}

/** What is charged to the control group that a process is in. */
export function groupMib(pid: number): number {
  const [, group] = /^0::(.*)$/m.exec(readText(`/proc/${pid}/cgroup`)) ?? []
  return Math.round(Number(readText(`/sys/fs/cgroup${group}/memory.current`)) / KIBIBYTE ** 2)
}

/** Bytes that the monitor has written so far, to files and devices. */
export const writtenBytes = (pid: number): number =>
  Number(/^wchar: (\d+)$/m.exec(readText(`/proc/${pid}/io`))?.[1])

/** Firecracker's own answer over the control socket of the sandbox's jail. */
export function askFirecracker(
  address: string,
  method: 'GET' | 'PATCH',
  path: string,
  body?: unknown,
): Promise<Record<string, unknown>> {
  const socketPath = `/run/e2b/jails/${PROGRAM}/s${slotOf(address)}/root/api.sock`
  return new Promise((resolve, reject) => {
    const call = request({ socketPath, method, path, agent: false }, (answer) => {
      text(answer).then((said) => {
        if ((answer.statusCode ?? 0) >= 300) return reject(new Error(`${path}: ${answer.statusCode} ${said}`))
        resolve(said === '' ? {} : (JSON.parse(said) as Record<string, unknown>))
      }, reject)
    })
    call.on('error', reject)
    if (body === undefined) return call.end()
    const bytes = JSON.stringify(body)
    call.setHeader('Content-Type', 'application/json')
    call.setHeader('Content-Length', Buffer.byteLength(bytes))
    call.end(bytes)
  })
}
