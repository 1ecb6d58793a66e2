import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { buffer } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { type Case, ofFirecracker, withoutGuestKernel } from './case.ts'
import { askFirecracker } from './firecracker-machine.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'
import { cgroupFile } from './sandbox-processes.ts'

/** Rate limiters of a machine: memory that was captured without them is restored under them. Limits of cgroup v2. */

const PART = 'limits'
/** Both so slow that without a limit all is faster, however busy the one processor is that all is emulated on. */
const DISK_MIBPS = 1
const NETWORK_MBIT = 1
const WRITTEN_MIB = 12
/** Of the disk: what may be written at once. */
const BUCKET_MIB = 1.25
const SENT_MIB = 3
const PORT = 9000
const LISTENS_WITHIN = 60

/** Of the kernel inside alone: what a program spends on each byte is more than the limit here, where all is emulated. */
const SENDS = `
import socket
listener = socket.create_server(('', ${PORT}))
connection, _ = listener.accept()
with connection, open('/tmp/sent', 'rb') as sent:
    connection.sendfile(sent)
`

interface Times {
  diskMs: number
  networkMs: number
}

/** By the clock of this machine, as the limits are: that of a guest is not exact where it is emulated. */
async function times(host: HostUnderTest, { address }: Running): Promise<Times> {
  const startMs = performance.now()
  await host.output(address, `dd if=/dev/zero of=/root/written bs=1M count=${WRITTEN_MIB} oflag=direct`)
  const diskMs = Math.round(performance.now() - startMs)
  await host.output(address, `head -c ${SENT_MIB}M /dev/urandom > /tmp/sent`)
  await host.output(address, `(python3 -c "${SENDS}" > /dev/null 2>&1 &)`)
  return { diskMs, networkMs: await receive(address) }
}

/** Milliseconds from the connection, which may come before anybody listens, to the last byte. */
async function receive(address: string): Promise<number> {
  for (let tries = 1; ; tries++) {
    const socket = connect(PORT, address)
    try {
      await once(socket, 'connect')
    } catch (error) {
      if (tries === LISTENS_WITHIN) throw error
      await delay(1000)
      continue
    }
    const startMs = performance.now()
    assert.equal((await buffer(socket)).length, SENT_MIB * 2 ** 20)
    return Math.round(performance.now() - startMs)
  }
}

/** Bytes that may go at once in each direction; undefined where nothing limits it. */
async function networkBuckets({ address }: Running): Promise<(number | undefined)[]> {
  const config = await askFirecracker(address, 'GET', '/vm/config')
  const [net] = config['network-interfaces'] as Record<string, { bandwidth?: { size: number } } | null>[]
  return ['rx_rate_limiter', 'tx_rate_limiter'].map((name) => net?.[name]?.bandwidth?.size)
}

/** Processor time that the sandbox has had, in microseconds. */
const processorUsec = ({ address }: Running): number =>
  Number(/^usage_usec (\d+)$/m.exec(cgroupFile(address, 'cpu.stat'))?.[1])

/** On cgroup v2, where this machine has the controllers in one hierarchy. */
const processorCase: Case['run'] = async (host) => {
  const busy = await host.start()
  const found = ['cpu.max', 'memory.swap.max', 'memory.max', 'pids.max'].map((name) =>
    cgroupFile(busy.address, name),
  )
  assert.deepEqual(found.slice(0, 2), ['100000 100000', '0'])
  for (const limit of found.slice(2)) assert.match(limit, /^\d+$/)
  const [beganUsec, beganMs] = [processorUsec(busy), performance.now()]
  await host.output(
    busy.address,
    'for i in 1 2 3 4; do timeout 10 sh -c "while :; do :; done" & done; wait; true',
  )
  const processors = (processorUsec(busy) - beganUsec) / 1000 / (performance.now() - beganMs)
  assert.ok(processors > 0.3 && processors < 1.35, `${processors} processors`)
  await host.stop(busy)
  return { processors, found }
}

export const limitCases: Case[] = [
  {
    ...ofFirecracker,
    part: PART,
    name: 'disk and network are as slow as the settings say, and without them faster',
    async run(host) {
      const free = await host.start()
      const without = await times(host, free)
      await host.stop(free)
      await host.close(true)
      await host.open({
        E2B_SANDBOX_DISK_MIBPS: String(DISK_MIBPS),
        E2B_SANDBOX_MBIT: String(NETWORK_MBIT),
      })
      const slow = await host.start()
      assert.deepEqual(await networkBuckets(slow), [65_562, 65_562])
      const within = await times(host, slow)
      const told = JSON.stringify({ without, within })
      assert.ok(within.diskMs > ((WRITTEN_MIB - BUCKET_MIB) / DISK_MIBPS) * 1000, told)
      assert.ok(within.diskMs > 1.5 * without.diskMs, told)
      assert.ok(within.networkMs > 20_000, told)
      assert.ok(within.networkMs > 1.5 * without.networkMs, told)
      const { sandboxId } = slow
      const { paused } = await host.client.pause({ sandboxId })
      await host.close(true)
      await host.open()
      const again = await host.start(paused!.snapshotId, { sandboxId, consumeSnapshot: true })
      assert.deepEqual(await networkBuckets(again), [undefined, undefined])
      const after = await times(host, again)
      assert.ok(after.diskMs < within.diskMs / 1.5, `${told}, then ${JSON.stringify(after)}`)
      assert.ok(after.networkMs < within.networkMs / 1.5, `${told}, then ${JSON.stringify(after)}`)
      await host.stop(again)
      return { without, within, after }
    },
  },
  ...withoutGuestKernel.map(
    (target): Case => ({
      ...target,
      part: PART,
      name: 'four busy loops get the one processor of their sandbox, which has no swap',
      run: processorCase,
    }),
  ),
]
