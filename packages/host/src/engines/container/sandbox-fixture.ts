/** What the tests of the container engine need around it: slots without a network, a layer of this machine's files. */
import { mkdirSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { buildShim } from '../../../native/build.ts'
import { CgroupRoot } from '../../linux/cgroup-root.ts'
import { mount, umount2, unmountIfMounted } from '../../linux/mount.ts'
import { inNetworkNamespace } from '../../linux/namespace.ts'
import { run } from '../../linux/process.ts'
import type { Slot } from '../../slots/slots.ts'
import type { Layer } from '../../storage/layers.ts'
import type { Upper } from '../../storage/uppers.ts'
import { buildCriu } from '../container/criu/build.ts'
import type { EngineStart, Instance } from '../engine.ts'
import { EngineStage, type StageParts } from '../testing/engine-stage.ts'
import { ContainerEngine, type ContainerEngineOptions } from './container-engine.ts'

const UID_BASE = 0x5000_0000
const IDS = 65_536
const GUEST_SOCKET = '/tmp/guest.sock'
const GUEST_CLOSES_MS = 50
const LIMITS = { cpuCount: 2, memoryMib: 256, diskMib: 256, pids: 128 }

/** Stands in for the agent: counts its answers, runs commands, and has a child of its own. */
const GUEST = `
import { execFile, spawn } from 'node:child_process'
import { createServer } from 'node:http'
import { hostname } from 'node:os'
const child = spawn('/bin/sh', ['-c', 'read forever'])
let count = 0
createServer((request, response) => {
  const words = JSON.parse(decodeURIComponent(request.url.slice(1)))
  if (words.length === 0)
    return response.end(JSON.stringify({ count: ++count, hostname: hostname(), child: child.pid }))
  execFile(words[0], words.slice(1), (error, out, err) => response.end((out + err).trim()))
}).listen('${GUEST_SOCKET}')
`
const INIT = ['/bin/sh', '-c', 'exec /bin/node /guest.mjs </dev/null >/tmp/log 2>&1']

export interface GuestState {
  count: number
  hostname: string
  child: number
}

interface FixtureParts extends StageParts {
  instance: string
  options: ContainerEngineOptions
}

export class SandboxFixture {
  readonly parts: FixtureParts
  readonly #stage: EngineStage
  readonly #slots = new Map<number, Slot>()

  private constructor(stage: EngineStage, instance: string, options: ContainerEngineOptions) {
    this.#stage = stage
    this.parts = { ...stage.parts, instance, options }
  }

  /** Takes about 5 s, and 20 s more where CRIU was never built. @param instance prefix of its kernel objects */
  static async make(instance: string): Promise<SandboxFixture> {
    const stage = await EngineStage.make({ name: 'engine', guest: GUEST, limits: LIMITS, uppersMib: 2048 })
    const { dir, runDir, layers } = stage.parts
    mkdirSync(join(dir, 'agent/.e2b'), { recursive: true })
    const agent = await layers.importDirectory(join(dir, 'agent'))
    const cacheDir = join(tmpdir(), 'criu-test-build')
    const criu = await buildCriu({ cacheDir, outDir: cacheDir })
    const cgroups = new CgroupRoot({ instance })
    cgroups.prepare()
    const options: ContainerEngineOptions = {
      runDir,
      shimPath: await buildShim({ outDir: dir }),
      crunPath: 'crun',
      criu,
      agentLayer: { digest: agent.digest, path: layers.mount(agent.digest) },
      layerPath: (digest) => layers.mount(digest),
      cgroups,
      initCommand: INIT,
      openFilesMax: 4096,
      probe: stage.probeSpace(UID_BASE + 100 * IDS, 64),
    }
    return new SandboxFixture(stage, instance, options)
  }

  engine(changes: Partial<ContainerEngineOptions> = {}): ContainerEngine {
    return new ContainerEngine({ ...this.parts.options, ...changes })
  }

  async slot(index: number): Promise<Slot> {
    const known = this.#slots.get(index)
    if (known) return known
    const { instance, runDir, options } = this.parts
    const name = `${instance}-${index}`
    const netnsPath = `/run/netns/${name}`
    await run('ip', ['netns', 'add', name])
    await run('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
    const sysfsPath = join(runDir, `sys-${index}`)
    mkdirSync(sysfsPath)
    inNetworkNamespace(netnsPath, () => mount('sysfs', sysfsPath, 'sysfs', 0xf))
    const cgroup = options.cgroups.cgroup(String(index))
    cgroup.create()
    const uidBase = UID_BASE + index * IDS
    const slot = { index, netnsPath, address: '', uidBase, cgroupPaths: cgroup.paths, sysfsPath }
    this.#slots.set(index, slot)
    return slot
  }

  async plan(index: number, changes: Partial<EngineStart> = {}): Promise<EngineStart> {
    return this.#stage.plan(await this.slot(index), changes)
  }

  memoryDir(): string {
    return this.#stage.memoryDir()
  }

  /** The files a sandbox has written, as the layer that its clones start from. */
  layerOf(upper: Upper): Promise<Layer> {
    return this.parts.layers.importDirectory(join(upper.path, 'upper'))
  }

  /** Everything the fixture made; what an engine left behind in a slot makes it fail. */
  async remove(): Promise<void> {
    const { options, runDir } = this.parts
    for (const slot of this.#slots.values()) {
      umount2(slot.sysfsPath)
      await run('ip', ['netns', 'delete', slot.netnsPath.slice('/run/netns/'.length)])
    }
    await options.cgroups.remove()
    unmountIfMounted(join(runDir, 'dev'))
    await this.#stage.remove()
  }
}

export async function guestState(instance: Instance): Promise<GuestState> {
  return JSON.parse(await inGuest(instance))
}

/** Output of a command that the guest runs; without one, its state. */
export async function inGuest(instance: Instance, ...words: string[]): Promise<string> {
  const path = `/${encodeURIComponent(JSON.stringify(words))}`
  for (let attempt = 1; ; attempt++) {
    try {
      return await answer(`/proc/${instance.initPid}/root${GUEST_SOCKET}`, path)
    } catch (error) {
      if (attempt >= 200) throw error
      await delay(20)
    }
  }
}

async function answer(socketPath: string, path: string): Promise<string> {
  const call = request({ socketPath, path, agent: false, timeout: 20_000 })
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    call.on('response', resolve).on('error', reject)
    call.end()
  })
  const body = await text(response)
  // A socket whose other end is outside the sandbox cannot be captured: let the guest close its end first.
  await delay(GUEST_CLOSES_MS)
  return body
}
