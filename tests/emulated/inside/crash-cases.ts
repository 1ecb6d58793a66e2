import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { newSandboxId } from '@sandbox/contract/ids'
import { mountsUnder } from '../../../packages/host/src/linux/mount-table.ts'
import { inNetworkNamespace } from '../../../packages/host/src/linux/namespace.ts'
import { type Case, ofFirecracker } from './case.ts'
import { monitorPids } from './firecracker-machine.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'
import { busySlots } from './sandbox-processes.ts'

/** A daemon that is killed in the middle: the next one has whole sandboxes and no parts of any. */

const PART = 'crashes'
const JAILS = '/run/e2b/jails/firecracker'
const LOOKS_EVERY_MS = 5
const OPENS_WITHIN_MS = 180_000

/** Runs a daemon until `isNow` says so, then kills it. */
async function killDaemon(
  { engine, monitor }: HostUnderTest,
  action: 'create' | 'pause',
  sandboxId: string,
  isNow: (begunMs: number) => boolean,
): Promise<void> {
  const program = join(import.meta.dirname, 'daemon.ts')
  const child = spawn(process.execPath, [program, engine, monitor, action, sandboxId], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  let begunAtMs: number | undefined
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line === 'begun') begunAtMs = performance.now()
  })
  const endsAtMs = performance.now() + OPENS_WITHIN_MS
  while (begunAtMs === undefined || !isNow(performance.now() - begunAtMs)) {
    const { exitCode, signalCode } = child
    assert.ok(exitCode === null && signalCode === null, `the daemon ended: ${signalCode ?? exitCode}`)
    assert.ok(performance.now() < endsAtMs, 'the moment came')
    await delay(LOOKS_EVERY_MS)
  }
  child.kill('SIGKILL')
  await ended
}

const names = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir) : [])

/** What of machines is in the kernel and on tmpfs. */
function partsOfMachines(): Record<string, number> {
  const taps = names('/run/netns').filter((name) =>
    inNetworkNamespace(join('/run/netns', name), () => existsSync('/proc/sys/net/ipv4/conf/tap0')),
  )
  return {
    monitors: monitorPids().length,
    jails: names(JAILS).length,
    taps: taps.length,
    cgroups: busySlots().length,
    mounts: mountsUnder('/run/e2b').filter(({ target }) => target.startsWith(JAILS)).length,
  }
}

/** The next daemon: exactly what it lists is there, and each answers. */
async function nextDaemon(host: HostUnderTest): Promise<Running[]> {
  await host.open()
  const { sandboxes } = await host.client.list({})
  const count = sandboxes.length
  for (const { address } of sandboxes) assert.equal(await host.output(address, 'echo lives'), 'lives')
  assert.deepEqual(partsOfMachines(), {
    monitors: count,
    jails: count,
    taps: count,
    cgroups: count,
    mounts: 0,
  })
  return sandboxes.map(({ sandboxId, address }) => ({ sandboxId, address }))
}

/** How many machines there are, as far as a create has come. */
const isAtCreate = (what: string, jails: number, monitors: number): Case => ({
  ...ofFirecracker,
  part: PART,
  name: `a daemon that is killed while it creates, ${what}, leaves a whole sandbox or nothing`,
  async run(host) {
    const { sandboxes } = await host.client.list({})
    await host.close(true)
    const sandboxId = newSandboxId()
    const before = partsOfMachines()
    // Cheap: looking must not keep the daemon from the only processor.
    const isThere = (): boolean =>
      names(JAILS).length >= before.jails! + jails && monitorPids().length >= before.monitors! + monitors
    await killDaemon(host, 'create', sandboxId, isThere)
    const found = await nextDaemon(host)
    const others = found.filter((running) => running.sandboxId !== sandboxId)
    assert.equal(others.length, sandboxes.length)
    const isWhole = others.length !== found.length
    await host.stop(...found.filter((running) => running.sandboxId === sandboxId))
    return { isWhole }
  },
})

const isAtPause = (afterMs: number): Case => ({
  ...ofFirecracker,
  part: PART,
  name: `a daemon that is killed ${afterMs} ms into a pause leaves it running or paused, with what it held`,
  async run(host) {
    const running = await host.start()
    const { sandboxId } = running
    await host.output(running.address, 'echo held > /dev/shm/held; echo held > /root/held')
    await host.close(true)
    await killDaemon(host, 'pause', sandboxId, (begunMs) => begunMs >= afterMs)
    const found = (await nextDaemon(host)).find((each) => each.sandboxId === sandboxId)
    const { paused } = await host.client.list({})
    const kept = paused.find((each) => each.sandboxId === sandboxId)
    assert.ok(Boolean(found) !== Boolean(kept), 'it is one of both')
    const again = found ?? (await host.start(kept!.snapshotId, { sandboxId, consumeSnapshot: true }))
    assert.equal(await host.output(again.address, 'cat /dev/shm/held /root/held'), 'held\nheld')
    await host.stop(again)
    return { was: found ? 'running' : 'paused' }
  },
})

export const crashCases: Case[] = [
  isAtCreate('before its monitor runs', 1, 0),
  isAtCreate('while its monitor starts', 1, 1),
  isAtPause(100),
  isAtPause(1_500),
]
