/** What the tests of the microvm engine need around it: real slots, uppers and layers, and a guest that answers. */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { buildOpenReadOnly, buildShim } from '../../../native/build.ts'
import { CgroupRoot } from '../../linux/cgroup.ts'
import { mount, umount2 } from '../../linux/mount.ts'
import { unmountTree } from '../../linux/mount-table.ts'
import { NetworkSlots } from '../../network/network-slots.ts'
import { type Slot, slotAddress, slotUidBase } from '../../slots.ts'
import { type Layer, LayerStore } from '../../storage/layers.ts'
import { UpperStore } from '../../storage/uppers.ts'
import { guestTree } from '../container/sandbox-fixture.ts'
import type { EngineStart, Instance } from '../engine.ts'
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

interface FixtureParts {
  dir: string
  runDir: string
  options: MicrovmEngineOptions
  network: NetworkSlots
  naming: { instance: string; addressRange: string; uidBase: number; runDir: string }
  uppers: UpperStore
  layers: LayerStore
  base: Layer
}

export class MachineFixture {
  readonly parts: FixtureParts
  readonly qemuOptions: QemuMonitorOptions
  readonly limits = LIMITS
  readonly #slots = new Map<number, Slot>()

  private constructor(parts: FixtureParts, qemuOptions: QemuMonitorOptions) {
    this.parts = parts
    this.qemuOptions = qemuOptions
  }

  /** Takes about 20 s, less where a guest image was built before. @param instance prefix of its kernel objects */
  static async make(instance: string, addressRange: string): Promise<MachineFixture> {
    const dir = mkdtempSync(join(tmpdir(), 'machines-'))
    chmodSync(dir, 0o711)
    const runDir = join(dir, 'run')
    mkdirSync(runDir)
    mount('run', runDir, 'tmpfs', 0, 'size=64m,mode=711')
    const uppers = await UpperStore.open({
      file: join(dir, 'uppers.btrfs'),
      mountPoint: join(runDir, 'uppers'),
      sizeMib: 4096,
    })
    const layers = new LayerStore({ layersDir: join(dir, 'layers'), mountsDir: join(runDir, 'layers') })
    const base = await layers.importDirectory(await guestTree(join(dir, 'tree'), GUEST))
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
      probe: {
        take: async () => uppers.take(256),
        give: async (upper) => uppers.release(upper),
        uidBase: slotUidBase(naming, 100),
      },
    }
    return new MachineFixture({ dir, runDir, options, network, naming, uppers, layers, base }, qemuOptions)
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
    return {
      sandboxId: `sandbox${index}`,
      slot: await this.slot(index),
      layers: [this.parts.base],
      upper: changes.upper ?? this.parts.uppers.take(LIMITS.diskMib),
      limits: LIMITS,
      hostname: `host${index}`,
      memoryDir: undefined,
      ...changes,
    }
  }

  memoryDir(): string {
    return mkdtempSync(join(this.parts.dir, 'memory-'))
  }

  /** Everything the fixture made; what an engine left behind in a slot makes it fail. */
  async remove(): Promise<void> {
    const { options, uppers, layers, network, runDir, dir } = this.parts
    await network.remove()
    await options.cgroups.remove()
    layers.unmountAll()
    rmSync(options.seedsDir, { recursive: true, force: true })
    await uppers.settled()
    await uppers.close()
    if (existsSync(runDir)) unmountTree(join(runDir, 'machine-devices'))
    umount2(runDir, 0)
    rmSync(dir, { recursive: true, force: true })
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
