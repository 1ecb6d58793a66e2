import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type Case, ofFirecracker } from './case.ts'
import { monitorPid } from './firecracker-machine.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'
import { jailOf } from './jail.ts'

/** A life of two sandboxes, through a reboot: each case builds on those before it. */

let first: Running
let second: Running

const counterOf = async (host: HostUnderTest, { address }: Running): Promise<number> =>
  Number((await host.run(address, 'cat /tmp/counter')).output)

const PART = 'life'
const ENDS_WITHIN_MS = 60_000

/** What every part builds on. */
export const openCases: Case[] = [
  {
    part: 'open',
    name: 'the host opens and its engine is usable',
    boot: 0,
    async run(host) {
      await host.open()
      const { engines } = await host.client.status({})
      return {
        engines: engines.map(({ name, usable, version, detail }) => ({ name, usable, version, detail })),
      }
    },
  },
  {
    part: 'open',
    name: 'memory of the template is captured',
    boot: 0,
    async run(host) {
      await host.stop(await host.start())
      return {}
    },
  },
]

/** Until both have been adopted; they go on to run. */
export const lifeCases: Case[] = [
  {
    part: PART,
    name: 'a sandbox is created from captured memory and runs commands',
    isEssential: true,
    boot: 0,
    async run(host) {
      first = await host.start()
      const { output } = await host.run(
        first.address,
        'uname -r; hostname; id -u; df --output=size -m / | tail -1',
      )
      const [kernel, hostname, uid, diskMib] = output.split('\n')
      assert.equal(hostname, first.sandboxId)
      assert.equal(uid, '0')
      return { kernel, diskMib: Number(diskMib) }
    },
  },
  {
    part: PART,
    name: 'its monitor is jailed: nobody, in a root and a process namespace of its own, every thread filtered',
    isEssential: true,
    engine: 'microvm',
    monitor: 'firecracker',
    boot: 0,
    async run() {
      return jailOf(monitorPid(first.address))
    },
  },
  {
    part: PART,
    name: 'a second clone is somebody else',
    isEssential: true,
    boot: 0,
    async run(host) {
      second = await host.start()
      const facts =
        'cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname; head -c 16 /dev/urandom | od -An -tx1'
      const [one, other] = await Promise.all([first, second].map(({ address }) => host.run(address, facts)))
      const lines = [one!.output.split('\n'), other!.output.split('\n')]
      for (const [index, line] of lines[0]!.entries()) assert.notEqual(line, lines[1]![index])
      return {}
    },
  },
  {
    part: PART,
    name: 'the clock inside is right',
    boot: 0,
    async run(host) {
      const { output } = await host.run(first.address, 'date +%s%3N')
      const offMs = Math.abs(Number(output) - Date.now())
      // Of the minutes since the capture; the agent sets the clock to what it was told, seconds ago on such a processor.
      assert.ok(offMs < 15_000, `${offMs} ms off`)
      return { offMs }
    },
  },
  {
    part: PART,
    name: 'a pause keeps memory and files, a resume goes on',
    boot: 0,
    async run(host) {
      await host.run(
        first.address,
        'echo kept > /root/file; (setsid bash -c "i=0; while true; do i=\\$((i+1)); echo \\$i > /tmp/counter; sleep 0.2; done" </dev/null >/dev/null 2>&1 &)',
      )
      await host.run(first.address, 'while [ ! -s /tmp/counter ]; do sleep 0.1; done')
      const { paused } = await host.client.pause({ sandboxId: first.sandboxId })
      assert.ok(paused?.hasMemory)
      const { sandboxId } = first
      const before = performance.now()
      first = await host.start(paused.snapshotId, { sandboxId, consumeSnapshot: true })
      const resumeMs = Math.round(performance.now() - before)
      assert.equal((await host.run(first.address, 'cat /root/file')).output, 'kept')
      const counter = await counterOf(host, first)
      await host.run(first.address, 'sleep 1')
      assert.ok((await counterOf(host, first)) > counter, 'the process of before goes on')
      return { resumeMs, counter }
    },
  },
  {
    part: PART,
    name: 'forks go on from one snapshot, apart from each other',
    boot: 0,
    async run(host) {
      await host.client.snapshot({ sandboxId: first.sandboxId, snapshotId: 'fork1' })
      const forks = [await host.start('fork1'), await host.start('fork1')]
      await Promise.all(forks.map(({ address }, index) => host.run(address, `echo ${index} > /root/mine`)))
      for (const [index, fork] of forks.entries()) {
        assert.equal((await host.run(fork.address, 'cat /root/file /root/mine')).output, `kept\n${index}`)
        assert.equal((await host.run(fork.address, 'hostname')).output, fork.sandboxId)
      }
      for (const { sandboxId } of forks) await host.client.stop({ sandboxId })
      await host.client.deleteSnapshot({ snapshotId: 'fork1' })
      assert.equal((await host.run(first.address, 'cat /root/mine 2>/dev/null; true')).output, '')
      return {}
    },
  },
  {
    part: PART,
    name: 'a pause of files alone boots anew',
    boot: 0,
    async run(host) {
      const facts = 'cat /proc/sys/kernel/random/boot_id'
      const before = (await host.run(second.address, facts)).output
      await host.run(second.address, 'echo also > /root/file')
      const { paused } = await host.client.pause({ sandboxId: second.sandboxId, memory: false })
      assert.equal(paused?.hasMemory, false)
      second = await host.start(paused!.snapshotId, { sandboxId: second.sandboxId, consumeSnapshot: true })
      assert.equal((await host.run(second.address, 'cat /root/file')).output, 'also')
      assert.notEqual((await host.run(second.address, facts)).output, before)
      return {}
    },
  },
  {
    part: PART,
    name: 'the disk has a hard cap',
    boot: 0,
    async run(host) {
      const { output } = await host.run(
        second.address,
        'dd if=/dev/zero of=/root/big bs=1M count=1024 2>&1 | grep -ci -e "no space" -e "quota"; rm -f /root/big',
      )
      assert.equal(output, '1')
      return {}
    },
  },
  {
    ...ofFirecracker,
    part: PART,
    name: 'a guest whose kernel gives up is gone, and the log has its last words',
    async run(host) {
      const { sandboxId, address } = await host.start()
      const panic = host.run(address, 'echo c > /proc/sysrq-trigger', AbortSignal.timeout(ENDS_WITHIN_MS))
      await panic.catch(() => {})
      const end = (): string | undefined =>
        host.logLines().find((line) => line.includes('"sandbox.end"') && line.includes(sandboxId))
      const endsAtMs = performance.now() + ENDS_WITHIN_MS
      while (!end()) {
        assert.ok(performance.now() < endsAtMs, 'it ends')
        await delay(200)
      }
      const { reason, lastWords } = JSON.parse(end()!) as { reason: string; lastWords: string }
      assert.equal(reason, 'exited')
      assert.match(lastWords, /Kernel panic/)
      return {}
    },
  },
  {
    part: PART,
    name: 'sandboxes are adopted by the next daemon',
    boot: 0,
    async run(host) {
      await host.close(true)
      await host.open()
      const { sandboxes } = await host.client.list({})
      assert.deepEqual(
        sandboxes.map(({ sandboxId }) => sandboxId).sort(),
        [first.sandboxId, second.sandboxId].sort(),
      )
      assert.equal((await host.run(first.address, 'cat /root/file')).output, 'kept')
      return {}
    },
  },
]

/** The last ones: the machine goes down, and comes up again. */
export const rebootCases: Case[] = [
  {
    part: PART,
    name: 'one is paused and one runs when the machine goes down',
    boot: 0,
    async run(host) {
      await host.run(first.address, 'sync; echo before-reboot > /root/reboot')
      await host.client.pause({ sandboxId: first.sandboxId })
      await host.close(true)
      return { paused: first.sandboxId }
    },
  },
  {
    part: PART,
    name: 'after a reboot the paused one is there, and nothing of the other',
    boot: 1,
    async run(host) {
      await host.open()
      const { sandboxes, paused } = await host.client.list({})
      assert.deepEqual(sandboxes, [])
      assert.equal(paused.length, 1)
      assert.deepEqual(readdirSync(join(host.config.stateDir, 'journal')), [])
      const { sandboxId, snapshotId } = paused[0]!
      first = await host.start(snapshotId, { sandboxId, consumeSnapshot: true })
      assert.equal(
        (await host.run(first.address, 'cat /root/file /root/reboot')).output,
        'kept\nbefore-reboot',
      )
      const counter = await counterOf(host, first)
      await host.run(first.address, 'sleep 1')
      assert.ok((await counterOf(host, first)) > counter, 'its process goes on')
      return { counter }
    },
  },
  {
    part: PART,
    name: 'closing leaves nothing in the kernel',
    boot: 1,
    async run(host) {
      await host.close(false)
      assert.deepEqual(readdirSync('/run/netns'), [])
      assert.equal(existsSync('/sys/fs/cgroup/e2b'), false)
      assert.equal(existsSync('/run/e2b'), false)
      return {}
    },
  },
]
