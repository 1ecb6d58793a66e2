import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync, rmSync, symlinkSync } from 'node:fs'
import { get } from 'node:http'
import { setTimeout as delay } from 'node:timers/promises'
import { callFirecracker, listening } from '../../../packages/host/src/engines/microvm/firecracker-api.ts'
import { run } from '../../../packages/host/src/linux/process.ts'
import { gatewayAddress, gatewayMac, guestAddress, guestMac } from '../../../packages/host/src/slots/slots.ts'
import { type Case, ofFirecracker } from './case.ts'
import { monitorPid } from './firecracker-machine.ts'
import type { HostUnderTest } from './host-under-test.ts'

/**
 * What a create costs beside its floor: a bare Firecracker, without a jail and without anything of ours, that loads the
 * same memory and goes on until the agent in it answers. Only how the two compare means something here.
 */

const PART = 'floor'
const ROUNDS = 5
const TAP = 'tap0'
const SOCKET = '/run/floor.sock'
const DISK = '/tmp/floor-disk.img'
const ANSWERS_WITHIN_MS = 60_000
const AGENT = `http://${guestAddress}:49983/health`

const median = (values: readonly number[]): number =>
  values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)]!

/** The names that captured state refers to, in this machine's own root; a disk of its own. @returns those names */
async function layOut(host: HostUnderTest, jail: string): Promise<string[]> {
  const [disk] = globSync(`${host.config.imagesDir}/snapshots/${host.baseSnapshotId}/memory/**/disk.img`)
  assert.ok(disk, 'the disk was captured')
  await run('cp', ['--sparse=always', disk, DISK])
  const layers = globSync(`${jail}/drive[1-9]*`).map((path) => path.slice(jail.length))
  symlinkSync(DISK, '/drive0')
  for (const name of layers) symlinkSync(`${jail}${name}`, name)
  return ['/drive0', ...layers]
}

const networkOf = (): Promise<unknown> =>
  run('ip', ['-batch', '-'], {
    stdin: [
      `tuntap add dev ${TAP} mode tap vnet_hdr`,
      `link set dev ${TAP} address ${gatewayMac}`,
      `address add ${gatewayAddress}/30 dev ${TAP}`,
      `link set dev ${TAP} up`,
      `neigh replace ${guestAddress} lladdr ${guestMac} dev ${TAP} nud permanent`,
      '',
    ].join('\n'),
  })

function answers(): Promise<boolean> {
  return new Promise((resolve) => {
    const asking = get(AGENT, { agent: false, timeout: 500 }, (answer) => {
      answer.resume()
      resolve(true)
    })
    asking.on('timeout', () => asking.destroy())
    asking.on('error', () => resolve(false))
  })
}

/** From the start of the program to the agent's first answer. */
async function bareMs(firecracker: string, jail: string): Promise<number> {
  rmSync(SOCKET, { force: true })
  const startMs = performance.now()
  const monitor = spawn(firecracker, ['--api-sock', SOCKET], { stdio: 'ignore' })
  const ended = once(monitor, 'exit')
  try {
    await listening(SOCKET, ANSWERS_WITHIN_MS)
    const load = {
      snapshot_path: `${jail}/state`,
      mem_backend: { backend_type: 'File', backend_path: `${jail}/memory` },
      resume_vm: true,
    }
    await callFirecracker(SOCKET, 'PUT', '/snapshot/load', load, ANSWERS_WITHIN_MS)
    while (!(await answers())) {
      assert.ok(performance.now() - startMs < ANSWERS_WITHIN_MS, 'the agent answers')
      await delay(5)
    }
    return performance.now() - startMs
  } finally {
    monitor.kill('SIGKILL')
    await ended
  }
}

async function createMs(host: HostUnderTest): Promise<number> {
  const startMs = performance.now()
  const sandbox = await host.start()
  const tookMs = performance.now() - startMs
  await host.stop(sandbox)
  return tookMs
}

export const floorCases: Case[] = [
  {
    ...ofFirecracker,
    part: PART,
    name: 'a create next to a bare load of the same memory',
    async run(host) {
      const lender = await host.start()
      const jail = `/proc/${monitorPid(lender.address)}/root`
      const names = await layOut(host, jail)
      await networkOf()
      const [bare, created]: [number[], number[]] = [[], []]
      try {
        for (let round = 0; round < ROUNDS; round++) {
          bare.push(await bareMs(host.config.firecracker, jail))
          created.push(await createMs(host))
        }
      } finally {
        for (const path of [...names, DISK, SOCKET]) rmSync(path, { force: true })
        await run('ip', ['link', 'delete', 'dev', TAP])
        await host.stop(lender)
      }
      const [bareMedian, createMedian] = [median(bare), median(created)]
      return { createToBare: Number((createMedian / bareMedian).toFixed(2)) }
    },
  },
]
