import assert from 'node:assert/strict'
import type { Case } from './case.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'

/** Two sandboxes that go on from one memory are two: in what the kernel draws, also for what already ran in it. */

const PART = 'clones'
const DRAWS_MS = 4_000

/**
 * Draws from the kernel over and over, with the host name before each: a clone has its own when its agent has given the
 * kernel a seed, and not before. The monotonic clock dates the kernel's own words.
 */
const DRAWING = `
import os, time
with open('/dev/shm/draws', 'w', buffering=1) as out:
    while True:
        out.write(f'{os.uname().nodename} {time.monotonic()} {os.urandom(8).hex()}\\n')
        time.sleep(0.002)
`
const DRAWING_IN_NODE = `
const { readSync, openSync, appendFileSync } = require('node:fs')
const { hostname } = require('node:os')
const source = openSync('/dev/urandom')
setInterval(() => {
  const bytes = Buffer.alloc(8)
  const place = hostname() + ' ' + Number(process.hrtime.bigint()) / 1e9
  readSync(source, bytes)
  appendFileSync('/dev/shm/node-draws', place + ' ' + bytes.toString('hex') + '\\n')
}, 50)
`

/**
 * When the kernel has heard, on the monotonic clock: its words carry a clock of their own, which a message with the
 * time of both tells apart. Read from the log's device, of which a sandbox has none.
 */
const KERNEL_SAYS = `
import os, re, stat, time
os.mknod('/root/kmsg', stat.S_IFCHR | 0o600, os.makedev(1, 11))
log = os.open('/root/kmsg', os.O_RDWR | os.O_NONBLOCK)
os.write(log, f'monotonic {time.monotonic()}\\n'.encode())
own, heard = 0, []
while True:
    try: record = os.read(log, 8192).decode()
    except BlockingIOError: break
    except BrokenPipeError: continue
    at = int(record.split(',')[2]) / 1e6
    if said := re.search('monotonic ([0-9.]+)', record): own = float(said[1]) - at
    if 'crng reseeded due to virtual machine fork' in record: heard.append(at)
print(heard[-1] + own if heard else 'nothing')
`

interface Draw {
  host: string
  monotonicSec: number
  bytes: string
}

async function drawsOf(host: HostUnderTest, { address }: Running, name: string): Promise<Draw[]> {
  const text = await host.output(address, `cat /dev/shm/${name}`)
  const lines = text.split('\n').filter((line) => / [0-9a-f]{16}$/.test(line))
  return lines.map((line) => {
    const [name, monotonic, bytes] = line.split(' ')
    return { host: name!, monotonicSec: Number(monotonic), bytes: bytes! }
  })
}

/** Draws of one clone between its first instruction and its name: without those of before the capture. */
function beforeName(draws: readonly Draw[], captured: readonly Draw[], name: string): Draw[] {
  const times = new Set(captured.map(({ monotonicSec }) => monotonicSec))
  return draws.filter(({ host, monotonicSec }) => host !== name && !times.has(monotonicSec))
}

/**
 * @param names of the clones
 * @param heard when the kernels of both heard of it, on their monotonic clocks; without it they wait for the agent
 * @throws AssertionError when both drew the same after their kernels, or their agents, had been told
 */
function compareDraws(
  [one, other]: readonly [readonly Draw[], readonly Draw[]],
  [name, otherName]: readonly [string, string],
  heard: readonly [number, number] | undefined,
): Record<string, number> {
  const ofOne = new Map(one.map((draw) => [draw.bytes, draw]))
  const apart = one.filter(({ host }) => host === name)
  const otherApart = other.filter(({ host }) => host === otherName)
  assert.ok(apart.length > 5 && otherApart.length > 5, `${apart.length}, ${otherApart.length} draws`)
  assert.deepEqual(
    otherApart.filter(({ bytes }) => ofOne.has(bytes)),
    [],
  )
  const early = new Set(beforeName(one, other, name))
  const twins = beforeName(other, one, otherName).flatMap((draw) => {
    const twin = ofOne.get(draw.bytes)
    return twin && early.has(twin) ? [[twin, draw] as const] : []
  })
  if (heard)
    assert.deepEqual(
      twins.filter((pair) => pair.some(({ monotonicSec }, index) => monotonicSec > heard[index]!)),
      [],
      `kernels heard at ${heard.join(' and ')}`,
    )
  const together = other.filter(({ bytes }) => ofOne.has(bytes)).length
  return { together, apart: apart.length, early: early.size, twins: twins.length }
}

/** Whether the guest's kernel has a driver for it and the monitor tells it of a restore. */
const listensToVmGenId = async (host: HostUnderTest, { address }: Running): Promise<boolean> =>
  host.monitor === 'firecracker' &&
  (await host.output(address, 'ls -d /sys/bus/*/drivers/vmgenid 2>/dev/null; true')) !== ''

const nameOf = (host: HostUnderTest, { address }: Running): Promise<string> =>
  host.output(address, 'hostname')

/** When the kernel of a clone heard that it is one, on its monotonic clock. */
async function heardSec(host: HostUnderTest, { address }: Running): Promise<number> {
  const said = await host.python(address, KERNEL_SAYS)
  assert.match(said, /^[0-9.]+$/)
  return Number(said)
}

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
      const clones = await Promise.all([host.start('drawing'), host.start('drawing')])
      await new Promise((resolve) => setTimeout(resolve, DRAWS_MS))
      const listens = await listensToVmGenId(host, clones[0]!)
      const [clone, otherClone] = clones
      const heard = listens
        ? ([await heardSec(host, clone!), await heardSec(host, otherClone!)] as const)
        : undefined
      const facts: Record<string, unknown> = { listens }
      const names = [await nameOf(host, clone!), await nameOf(host, otherClone!)] as const
      for (const name of ['draws', 'node-draws']) {
        const draws = [await drawsOf(host, clone!, name), await drawsOf(host, otherClone!, name)] as const
        facts[name] = compareDraws(draws, names, heard)
      }
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
