import assert from 'node:assert/strict'
import { setTimeout as delay } from 'node:timers/promises'
import { type Case, ofFirecracker, withoutGuestKernel } from './case.ts'
import { askFirecracker, groupMib, memoryUse, monitorPid, writtenBytes } from './firecracker-machine.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'

/** What clones share of their memory, what a machine gives back, and what a capture writes. */

const PART = 'memory'
const MACHINE_MIB = 512
/** By a process of the guest. */
const TAKEN_MIB = 300
const MEBIBYTE = 2 ** 20
const GIVES_BACK_WITHIN_MS = 60_000

let one: Running
let other: Running
let digest: string

/** Content of memory alone, and what it is when it was kept whole. */
const scribble = async (host: HostUnderTest, { address }: Running, mib: number): Promise<string> =>
  host.output(address, `head -c ${mib}M /dev/urandom > /dev/shm/kept && sha256sum < /dev/shm/kept`)

const kept = (host: HostUnderTest, { address }: Running): Promise<string> =>
  host.output(address, 'sha256sum < /dev/shm/kept')

/** What this machine holds for a monitor: resident pages, and those charged to its control group. */
interface Held {
  rssMib: number
  groupMib: number
}

const heldBy = (pid: number): Held => ({ rssMib: memoryUse(pid).rssMib, groupMib: groupMib(pid) })

/** What is held while a process of the guest has taken so much, which has ended afterwards. */
async function heldWith(host: HostUnderTest, address: string, pid: number, mib: number): Promise<Held> {
  const program = `taken = bytearray(b"x") * (${mib} << 20); open("/dev/shm/taken", "w"); input()`
  await host.output(
    address,
    `rm -f /dev/shm/*; mkfifo /run/end
setsid python3 -c '${program}' <> /run/end >/dev/null 2>&1 & echo $! > /run/taker
while [ ! -e /dev/shm/taken ]; do kill -0 $(cat /run/taker); sleep 0.1; done`,
  )
  const held = heldBy(pid)
  await host.output(address, 'kill -9 $(cat /run/taker); rm /dev/shm/taken /run/end')
  return held
}

/** Until it holds so much less, as far as the guest takes its time. @returns the last */
async function heldBelow(pid: number, full: Held, mib: number): Promise<Held> {
  const endsAtMs = performance.now() + GIVES_BACK_WITHIN_MS
  for (;;) {
    const held = heldBy(pid)
    if (held.rssMib < full.rssMib - mib && held.groupMib < full.groupMib - mib) return held
    assert.ok(performance.now() < endsAtMs, `${JSON.stringify(held)}, of ${JSON.stringify(full)}`)
    await delay(500)
  }
}

export const memoryCases: Case[] = [
  {
    ...ofFirecracker,
    part: PART,
    isEssential: true,
    name: 'two clones share the pages of their memory',
    async run(host) {
      one = await host.start()
      other = await host.start()
      const uses = [one, other].map(({ address }) => memoryUse(monitorPid(address)))
      for (const { rssMib, pssMib, mappedMib, sharedMib, ownMib } of uses) {
        assert.equal(mappedMib, MACHINE_MIB)
        assert.ok(sharedMib > 8, `${sharedMib} MiB are shared`)
        assert.ok(pssMib < rssMib - sharedMib / 3, `of ${rssMib} MiB its part is ${pssMib}`)
        assert.ok(ownMib < MACHINE_MIB / 4, `${ownMib} MiB are its own`)
      }
      return { uses }
    },
  },
  {
    ...ofFirecracker,
    part: PART,
    isEssential: true,
    name: 'the first capture of a clone writes what it has changed, also over a difference',
    async run(host) {
      digest = await scribble(host, one, 16)
      const pid = monitorPid(one.address)
      const before = writtenBytes(pid)
      await host.client.snapshot({ sandboxId: one.sandboxId, snapshotId: 'diff' })
      const changedMib = Math.round((writtenBytes(pid) - before) / MEBIBYTE)
      assert.ok(changedMib >= 16 && changedMib < MACHINE_MIB / 2, `${changedMib} MiB were written`)
      let clone = await host.start('diff')
      assert.equal(await kept(host, clone), digest)
      // A difference to what was a difference itself.
      const next = await scribble(host, clone, 8)
      clone = await host.pauseAndResume(clone)
      assert.equal(await kept(host, clone), next)
      await host.stop(clone)
      return { changedMib }
    },
  },
  {
    ...ofFirecracker,
    part: PART,
    name: 'a later capture of the same machine is whole, and both are kept apart',
    async run(host) {
      const second = await scribble(host, one, 16)
      const pid = monitorPid(one.address)
      const before = writtenBytes(pid)
      await host.client.snapshot({ sandboxId: one.sandboxId, snapshotId: 'whole' })
      const wholeMib = Math.round((writtenBytes(pid) - before) / MEBIBYTE)
      assert.ok(wholeMib >= MACHINE_MIB, `${wholeMib} MiB were written`)
      const clones = [await host.start('diff'), await host.start('whole')]
      assert.deepEqual(await Promise.all(clones.map((clone) => kept(host, clone))), [digest, second])
      await host.stop(...clones)
      for (const snapshotId of ['diff', 'whole']) await host.client.deleteSnapshot({ snapshotId })
      return { wholeMib }
    },
  },
  {
    ...ofFirecracker,
    part: PART,
    name: 'memory that the guest has freed goes back to this machine, and the guest goes on, also after a pause',
    async run(host) {
      const { address } = other
      const pid = monitorPid(address)
      const before = heldBy(pid)
      const full = await heldWith(host, address, pid, TAKEN_MIB)
      for (const name of ['rssMib', 'groupMib'] as const)
        assert.ok(full[name] > before[name] + TAKEN_MIB / 2, `${name}: ${before[name]}, then ${full[name]}`)
      const { balloon } = await askFirecracker(address, 'GET', '/vm/config')
      const reports = (balloon as { free_page_reporting?: boolean }).free_page_reporting === true
      if (!reports) await askFirecracker(address, 'PATCH', '/balloon', { amount_mib: TAKEN_MIB })
      const less = await heldBelow(pid, full, (TAKEN_MIB * 2) / 3)
      if (!reports) await askFirecracker(address, 'PATCH', '/balloon', { amount_mib: 0 })
      const last = await scribble(host, other, 32)
      other = await host.pauseAndResume(other)
      assert.equal(await kept(host, other), last)
      await host.stop(one, other)
      return { reports, before, full, less }
    },
  },
  ...withoutGuestKernel.map(
    (target): Case => ({
      ...target,
      part: PART,
      name: 'memory is whole in snapshots, in clones of them, in snapshots of these, and after a pause',
      async run(host) {
        const origin = await host.start()
        const first = await scribble(host, origin, 16)
        await host.client.snapshot({ sandboxId: origin.sandboxId, snapshotId: 'first' })
        const second = await scribble(host, origin, 24)
        const clone = await host.start('first')
        assert.equal(await kept(host, clone), first)
        const third = await scribble(host, clone, 8)
        await host.client.snapshot({ sandboxId: clone.sandboxId, snapshotId: 'third' })
        const later = [
          await host.pauseAndResume(origin),
          await host.start('third'),
          await host.start('first'),
        ]
        assert.deepEqual(await Promise.all(later.map((each) => kept(host, each))), [second, third, first])
        await host.stop(...later, clone)
        for (const snapshotId of ['first', 'third']) await host.client.deleteSnapshot({ snapshotId })
        return {}
      },
    }),
  ),
]
