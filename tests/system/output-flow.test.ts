import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { globSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import {
  callProcess,
  createWireSandbox,
  processEvents,
  type WireAnswer,
  type WireEvent,
  type WireSandbox,
} from './harness/agent-wire.ts'
import { apiRequest } from './harness/clients.ts'
import { agentPid, commandLine, growthWhile } from './harness/resident-memory.ts'

const MIB = 2 ** 20
const LONG_MS = 120_000
/** Prints more than 1 GiB. */
const LAST_NUMBER = 125_000_000
/** What the agent and the server may grow by while a process has 1 GiB to print to somebody who does not read. */
const GROWTH_MIB = 32
/** What a process has written at most by then: the queue of the reader, and buffers of the kernel on the way. */
const WRITTEN_MIB = 48
/** How much a slow reader reads in the end. */
const READ_MIB = 48

let sandbox: WireSandbox
let pids: { agent: number; server: number }
beforeAll(async () => {
  sandbox = await createWireSandbox()
  pids = { agent: agentPid(inject('serverConfig').stateDir, sandbox.sandboxId), server: inject('serverPid') }
  for (const wire of [sandbox.http1, sandbox.http2]) {
    const warm = await callProcess(wire, 'Start', numbers(3_000_000))
    for await (const _ of processEvents(warm.body)) {
      // Code is compiled and buffers are made once.
    }
  }
})
afterAll(() => apiRequest(`/sandboxes/${sandbox.sandboxId}`, { method: 'DELETE' }))

const numbers = (last: number) => ({ process: { cmd: 'seq', args: ['1', String(last)] }, stdin: false })

/** Pid on the host of the one running process that prints up to `last`. */
function hostPid(last: number): number | undefined {
  const { instance } = inject('serverConfig')
  const members = globSync(`/sys/fs/cgroup/{*/,}${instance}/**/cgroup.procs`)
  const candidates = new Set(
    members.flatMap((path) => readFileSync(path, 'utf8').split('\n').filter(Boolean)),
  )
  const found = [...candidates].find((pid) => commandLine(Number(pid)).startsWith(`seq 1 ${last}`))
  return found === undefined ? undefined : Number(found)
}

const writtenMib = (pid: number): number =>
  Number(/^wchar: (\d+)/m.exec(readFileSync(`/proc/${pid}/io`, 'utf8'))?.[1]) / MIB

/** The process does not get on although it has more to print. */
async function expectHeld(pid: number): Promise<void> {
  let before = -1
  await expect
    .poll(
      () => {
        const now = writtenMib(pid)
        const isHeld = now === before
        before = now
        return isHeld
      },
      { timeout: 20_000, interval: 400 },
    )
    .toBe(true)
  expect(before).toBeLessThan(WRITTEN_MIB)
}

async function expectFlat(work: () => Promise<unknown>): Promise<void> {
  const growth = await growthWhile(pids, work)
  expect(growth.agent).toBeLessThan(GROWTH_MIB)
  expect(growth.server).toBeLessThan(GROWTH_MIB)
}

/** Reads the first `READ_MIB` of output with pauses; their SHA-256. */
async function readSlowly(events: AsyncIterable<WireEvent>): Promise<string> {
  const hash = createHash('sha256')
  let leftBytes = READ_MIB * MIB
  for await (const { data } of events) {
    const bytes = Buffer.from(data?.stdout ?? '', 'base64').subarray(0, leftBytes)
    if (Math.floor(leftBytes / (8 * MIB)) > Math.floor((leftBytes - bytes.length) / (8 * MIB)))
      await delay(100)
    hash.update(bytes)
    leftBytes -= bytes.length
    if (leftBytes === 0) break
  }
  return hash.digest('hex')
}

const expectedDigest = (last: number): string =>
  execFileSync('/bin/sh', ['-c', `seq 1 ${last} | head -c ${READ_MIB * MIB} | sha256sum`], {
    encoding: 'utf8',
  }).slice(0, 64)

describe('a process that prints 1 GiB', () => {
  it.each(['http1', 'http2'] as const)(
    'is held by a reader that does not read over %s, and loses nothing',
    { timeout: LONG_MS },
    async (version) => {
      const last = LAST_NUMBER + (version === 'http1' ? 1 : 2)
      const expected = expectedDigest(last)
      let answer: WireAnswer | undefined
      await expectFlat(async () => {
        answer = await callProcess(sandbox[version], 'Start', numbers(last))
        await expect.poll(() => hostPid(last), { timeout: 5_000 }).toBeDefined()
        await expectHeld(hostPid(last)!)
        expect(await readSlowly(processEvents(answer.body))).toBe(expected)
      })
      answer!.close()
      // Nobody listens any more: what it prints is dropped and it comes to its end.
      await expect.poll(() => hostPid(last), { timeout: 60_000, interval: 200 }).toBeUndefined()
    },
  )

  it('waits for the slowest of its readers until that one leaves', { timeout: LONG_MS }, async () => {
    const last = LAST_NUMBER + 3
    await expectFlat(async () => {
      const slow = await callProcess(sandbox.http1, 'Start', { ...numbers(last), tag: 'shared' })
      await expect.poll(() => hostPid(last), { timeout: 5_000 }).toBeDefined()
      const pid = hostPid(last)!
      const fast = await callProcess(sandbox.http2, 'Connect', { process: { tag: 'shared' } })
      let readBytes = 0
      const reading = (async () => {
        for await (const { data } of processEvents(fast.body))
          readBytes += Buffer.byteLength(data?.stdout ?? '', 'base64')
      })().catch(() => undefined)
      await expectHeld(pid)
      const heldAt = readBytes
      slow.close()
      await expect.poll(() => readBytes, { timeout: 20_000 }).toBeGreaterThan(heldAt + 64 * MIB)
      fast.close()
      await reading
      await expect.poll(() => hostPid(last), { timeout: 60_000, interval: 200 }).toBeUndefined()
    })
  })
})
