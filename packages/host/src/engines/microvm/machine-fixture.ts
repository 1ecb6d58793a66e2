/** What the tests of the microvm engine need around it: real slots, uppers and layers, and a guest that answers. */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { buildOpenReadOnly, buildShim } from '../../../native/build.ts'
import { CgroupRoot } from '../../linux/cgroup-root.ts'
import { unmountTree } from '../../linux/mount-table.ts'
import { NetworkSlots } from '../../network/network-slots.ts'
import { type Slot, slotAddress, slotUidBase } from '../../slots/slots.ts'
import type { EngineStart, Instance } from '../engine.ts'
import { EngineStage, type StageParts } from '../testing/engine-stage.ts'
import { buildGuestImage, currentGuestImage } from './image/guest-image.ts'
import { MicrovmEngine, type MicrovmEngineOptions } from './microvm-engine.ts'
import { QemuMonitor, type QemuMonitorOptions } from './qemu.ts'

const GUEST_PORT = 49_983
const ASK_AGAIN_MS = 100
const ANSWER_WITHIN_MS = 120_000
/** Emulated machines are slower, and those of a busy machine slower still. */
const TIME_SCALE = 30
const LIMITS = { cpuCount: 1, memoryMib: 256, diskMib: 256, pids: 128 }

/** Stands in for the agent: counts its answers and runs commands. */
const GUEST = `
import { execFile } from 'node:child_process'
import { createServer } from 'node:http'
import { hostname } from 'node:os'
let count = 0
createServer((request, response) => {
  const words = JSON.parse(decodeURIComponent(request.url.slice(1)))
  if (words.length === 0) return response.end(JSON.stringify({ count: ++count, hostname: hostname() }))
  execFile(words[0], words.slice(1), (error, out, err) => response.end((out + err).trim()))
}).listen(${GUEST_PORT})
`
const INIT = '#!/bin/sh\nexec /bin/node /guest.mjs </dev/null >/tmp/log 2>&1\n'

interface FixtureParts extends StageParts {
  options: MicrovmEngineOptions
  network: NetworkSlots
  naming: { instance: string; addressRange: string; uidBase: number; runDir: string }
}

export class MachineFixture {
  readonly parts: FixtureParts
  readonly qemuOptions: QemuMonitorOptions
  readonly limits = LIMITS
  readonly #stage: EngineStage
  readonly #slots = new Map<number, Slot>()

  private constructor(
    stage: EngineStage,
    parts: Omit<FixtureParts, keyof StageParts>,
    qemuOptions: QemuMonitorOptions,
  ) {
    this.#stage = stage
    this.parts = { ...stage.parts, ...parts }
    this.qemuOptions = qemuOptions
  }

  /** Takes about 20 s, less where a guest image was built before. @param instance prefix of its kernel objects */
  static async make(instance: string, addressRange: string): Promise<MachineFixture> {
    const stage = await EngineStage.make({ name: 'machines', guest: GUEST, limits: LIMITS, uppersMib: 4096 })
    const { dir, runDir, layers } = stage.parts
    const imagesDir = join(tmpdir(), 'microvm-test-image')
    const naming = { instance, addressRange, uidBase: 0x5100_0000, runDir }
    const network = new NetworkSlots(naming)
    await network.start()
    const cgroups = new CgroupRoot({ instance })
    cgroups.prepare()
    const qemuOptions: QemuMonitorOptions = {
      path: '/usr/bin/qemu-system-x86_64',
      accelerator: 'tcg',
      openReadOnlyPath: await buildOpenReadOnly({ outDir: dir }),
      devicesDir: join(runDir, 'machine-devices'),
      timeScale: TIME_SCALE,
    }
    const options: MicrovmEngineOptions = {
      runDir,
      shimPath: await buildShim({ outDir: dir }),
      monitors: [new QemuMonitor(qemuOptions)],
      image: currentGuestImage(imagesDir) ?? (await buildGuestImage({ directory: imagesDir })),
      agentLayer: await layers.importDirectory(agentTree(join(dir, 'agent'))),
      cgroups,
      seedsDir: join(runDir, 'uppers', '.seeds'),
      bundlesDir: join(dir, 'bundles'),
      mayEmulate: true,
      probe: stage.probeSpace(slotUidBase(naming, 100), 256),
    }
    return new MachineFixture(stage, { options, network, naming }, qemuOptions)
  }

  engine(changes: Partial<MicrovmEngineOptions> = {}): MicrovmEngine {
    return new MicrovmEngine({ ...this.parts.options, ...changes })
  }

  async slot(index: number): Promise<Slot> {
    const known = this.#slots.get(index)
    if (known) return known
    const { network, naming, options } = this.parts
    await network.prepare(index)
    const cgroup = options.cgroups.cgroup(String(index))
    cgroup.create()
    const slot = {
      index,
      netnsPath: network.netnsPath(index),
      address: slotAddress(naming, index),
      uidBase: slotUidBase(naming, index),
      cgroupPaths: cgroup.paths,
      sysfsPath: network.sysfsPath(index),
    }
    this.#slots.set(index, slot)
    return slot
  }

  async plan(index: number, changes: Partial<EngineStart> = {}): Promise<EngineStart> {
    return this.#stage.plan(await this.slot(index), changes)
  }

  memoryDir(): string {
    return this.#stage.memoryDir()
  }

  /** Everything the fixture made; what an engine left behind in a slot makes it fail. */
  async remove(): Promise<void> {
    const { options, network, runDir } = this.parts
    await network.remove()
    await options.cgroups.remove()
    rmSync(options.seedsDir, { recursive: true, force: true })
    if (existsSync(runDir)) unmountTree(join(runDir, 'machine-devices'))
    await this.#stage.remove()
  }
}

function agentTree(dir: string): string {
  mkdirSync(join(dir, '.e2b/bin'), { recursive: true })
  writeFileSync(join(dir, '.e2b/bin/init'), INIT, { mode: 0o755 })
  return dir
}

export interface GuestState {
  count: number
  hostname: string
}

export const guestState = async (instance: Instance): Promise<GuestState> =>
  JSON.parse(await inGuest(instance))

/** Output of a command that the guest runs; without one, its state. Waits while it boots. */
export async function inGuest(instance: Instance, ...words: string[]): Promise<string> {
  const path = `/${encodeURIComponent(JSON.stringify(words))}`
  const endsAtMs = performance.now() + ANSWER_WITHIN_MS
  for (;;) {
    try {
      return await answer(instance.slot.address, path)
    } catch (error) {
      if (performance.now() > endsAtMs) throw error
      await delay(ASK_AGAIN_MS)
    }
  }
}

function answer(host: string, path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const call = request({ host, port: GUEST_PORT, path, agent: false, timeout: ANSWER_WITHIN_MS })
    call.on('response', (response) => text(response).then(resolve, reject)).on('error', reject)
    call.end()
  })
}
