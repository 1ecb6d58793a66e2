import assert from 'node:assert/strict'
import type { Case } from './case.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'

/** Two sandboxes that go on from one memory are two: in what the kernel draws, also for what already ran in it. */

const PART = 'clones'
const DRAWS_MS = 4_000

/**
 * Draws from the kernel over and over, with the clock's time before each: the clock of a machine jumps when the agent sets
 * it, which is when it has given the kernel a seed as well.
 */
const DRAWING = `
import os, time
with open('/dev/shm/draws', 'w', buffering=1) as out:
    while True:
        out.write(f'{time.time()} {os.urandom(8).hex()}\\n')
        time.sleep(0.002)
`
const DRAWING_IN_NODE = `
const { readSync, openSync, appendFileSync } = require('node:fs')
const source = openSync('/dev/urandom')
setInterval(() => {
  const bytes = Buffer.alloc(8)
  const atSec = Date.now() / 1000
  readSync(source, bytes)
  appendFileSync('/dev/shm/node-draws', atSec + ' ' + bytes.toString('hex') + '\\n')
}, 50)
`

interface Draw {
  atSec: number
  bytes: string
}

async function drawsOf(host: HostUnderTest, { address }: Running, name: string): Promise<Draw[]> {
  const text = await host.output(address, `cat /dev/shm/${name}`)
  const lines = text.split('\n').filter((line) => / [0-9a-f]{16}$/.test(line))
  return lines.map((line) => {
    const [at, bytes] = line.split(' ')
    return { atSec: Number(at), bytes: bytes! }
  })
}

/** Draws since the clock was set in the clone. */
function afterJump(draws: readonly Draw[], sinceSec: number): string[] {
  return draws.filter(({ atSec }) => atSec > sinceSec).map(({ bytes }) => bytes)
}

/**
 * Draws of two clones from their first instruction on until the agent gave a seed: what both have at the same time was
 * drawn before the capture.
 */
function beforeJump(one: readonly Draw[], other: readonly Draw[], untilSec: number): [string[], string[]] {
  const own = (draws: readonly Draw[], captured: readonly Draw[]): string[] => {
    const times = new Set(captured.map(({ atSec }) => atSec))
    return draws.filter(({ atSec }) => atSec <= untilSec && !times.has(atSec)).map(({ bytes }) => bytes)
  }
  return [own(one, other), own(other, one)]
}

/** Whether the guest's kernel has a driver for it and the monitor tells it of a restore. */
const listensToVmGenId = async (host: HostUnderTest, { address }: Running): Promise<boolean> =>
  host.monitor === 'firecracker' &&
  (await host.output(address, 'ls -d /sys/bus/*/drivers/vmgenid 2>/dev/null; true')) !== ''

export const cloneCases: Case[] = [
  {
    part: PART,
    name: 'what two clones draw is different, also in processes that were captured',
    boot: 0,
    async run(host) {
      const origin = await host.start()
      const put = (path: string, text: string): string => `cat > ${path} <<'TEXT'\n${text}\nTEXT\n`
      await host.output(
        origin.address,
        `${put('/root/draw.py', DRAWING)}${put('/root/draw.cjs', DRAWING_IN_NODE)}
setsid python3 /root/draw.py </dev/null >/dev/null 2>&1 &
setsid /.e2b/bin/node /root/draw.cjs </dev/null >/dev/null 2>&1 &
while [ ! -s /dev/shm/draws ] || [ ! -s /dev/shm/node-draws ]; do sleep 0.1; done`,
      )
      await host.client.snapshot({ sandboxId: origin.sandboxId, snapshotId: 'drawing' })
      await host.stop(origin)
      const capturedSec = Date.now() / 1000
      const clones = await Promise.all([host.start('drawing'), host.start('drawing')])
      await new Promise((resolve) => setTimeout(resolve, DRAWS_MS))
      const listens = await listensToVmGenId(host, clones[0]!)
      const facts: Record<string, unknown> = { listens }
      for (const name of ['draws', 'node-draws']) {
        const [one, other] = await Promise.all(clones.map((clone) => drawsOf(host, clone, name)))
        const before = new Set(one!.map(({ bytes }) => bytes))
        const common = other!.filter(({ bytes }) => before.has(bytes))
        const [first, second] = [one!, other!].map((draws) => afterJump(draws, capturedSec))
        assert.ok(first!.length > 5 && second!.length > 5, `${first!.length}, ${second!.length} draws`)
        assert.deepEqual(
          second!.filter((bytes) => first!.includes(bytes)),
          [],
        )
        const [early, otherEarly] = beforeJump(one!, other!, capturedSec)
        const twins = early.filter((bytes) => otherEarly.includes(bytes)).length
        facts[name] = { together: common.length, apart: first!.length, early: early.length, twins }
        // One may be under way when the kernel hears of it.
        if (listens) assert.ok(twins <= 1, `${twins} of ${early.length} were drawn by both after the restore`)
      }
      const kernelSays = await host.output(clones[0]!.address, 'dmesg | grep -i -e fork -e vmgenid; true')
      if (listens) assert.match(kernelSays, /crng reseeded due to virtual machine fork/)
      facts.kernelSays = kernelSays
      const ids = await Promise.all(
        clones.map(({ address }) =>
          host.output(address, 'cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname'),
        ),
      )
      for (const [index, line] of ids[0]!.split('\n').entries())
        assert.notEqual(line, ids[1]!.split('\n')[index])
      await host.stop(...clones)
      await host.client.deleteSnapshot({ snapshotId: 'drawing' })
      return facts
    },
  },
]
