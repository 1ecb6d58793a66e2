import assert from 'node:assert/strict'
import { readdirSync, readlinkSync } from 'node:fs'
import { readText } from './sandbox-processes.ts'

/** What the kernel says of a virtual machine monitor's walls. */

/** Answers facts for the report. @throws AssertionError when a wall is missing */
export function jailOf(pid: number): Record<string, unknown> {
  const status = readText(`/proc/${pid}/status`)
  const field = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, 'm').exec(status)?.[1] ?? ''
  const uids = new Set(field('Uid').split('\t'))
  assert.equal(uids.size, 1)
  assert.ok(!uids.has('0'), 'it is not root')
  assert.equal(field('Gid'), field('Uid'), 'nor of its group')
  assert.equal(field('CapEff'), '0000000000000000')
  const threads = readdirSync(`/proc/${pid}/task`)
  for (const thread of threads)
    assert.match(
      readText(`/proc/${pid}/task/${thread}/status`),
      /^Seccomp:\s*2$/m,
      `thread ${thread} is filtered`,
    )
  for (const namespace of ['mnt', 'net', 'pid'])
    assert.notEqual(
      readlinkSync(`/proc/${pid}/ns/${namespace}`),
      readlinkSync(`/proc/self/ns/${namespace}`),
      namespace,
    )
  const seen = readdirSync(`/proc/${pid}/root`)
  assert.ok(!seen.includes('etc') && seen.includes('api.sock'), 'its root is the jail')
  const cgroup = readText(`/proc/${pid}/cgroup`).trim()
  assert.match(cgroup, /\/e2b\/\d+/)
  return { threads: threads.length, uid: [...uids][0], cgroup, seen }
}
