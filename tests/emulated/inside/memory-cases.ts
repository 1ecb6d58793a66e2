import assert from 'node:assert/strict'
import { setTimeout as delay } from 'node:timers/promises'
import { type Case, ofFirecracker } from './case.ts'
import { askFirecracker, memoryUse, monitorPid, writtenBytes } from './firecracker-machine.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'

/** What clones share of their memory, what a machine gives back, and what a capture writes. */

const PART = 'memory'
const MACHINE_MIB = 256
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

/** Until it is below, as far as the guest takes its time. @returns the last */
async function residentBelow(address: string, mib: number): Promise<number> {
  const endsAtMs = performance.now() + GIVES_BACK_WITHIN_MS
  for (;;) {
    const { rssMib } = memoryUse(monitorPid(address))
    if (rssMib < mib) return rssMib
    assert.ok(performance.now() < endsAtMs, `${rssMib} MiB are resident, not less than ${mib}`)
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
    name: 'memory that the balloon takes goes back to this machine, and the guest goes on, also after a pause',
    async run(host) {
      const { address } = other
      await scribble(host, other, 64)
      const full = memoryUse(monitorPid(address)).rssMib
      await host.output(address, 'rm /dev/shm/kept')
      const { balloon } = await askFirecracker(address, 'GET', '/vm/config')
      const reports = (balloon as { free_page_reporting?: boolean }).free_page_reporting === true
      if (!reports) await askFirecracker(address, 'PATCH', '/balloon', { amount_mib: 96 })
      const less = await residentBelow(address, full - 32)
      if (!reports) await askFirecracker(address, 'PATCH', '/balloon', { amount_mib: 0 })
      const last = await scribble(host, other, 32)
      other = await host.pauseAndResume(other)
      assert.equal(await kept(host, other), last)
      await host.stop(one, other)
      return { reports, fullMib: full, lessMib: less }
    },
  },
]
