/** What the tests of the container engine need around it: slots without a network, a layer of this machine's files. */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { buildShim } from '../../../native/build.ts'
import { CgroupRoot } from '../../linux/cgroup.ts'
import { mount, umount2, unmountIfMounted } from '../../linux/mount.ts'
import { inNetworkNamespace } from '../../linux/namespace.ts'
import { run } from '../../linux/process.ts'
import type { Slot } from '../../slots.ts'
import { type Layer, LayerStore } from '../../storage/layers.ts'
import { type Upper, UpperStore } from '../../storage/uppers.ts'
import { buildCriu } from '../container/criu/build.ts'
import type { EngineStart, Instance } from '../engine.ts'
import { ContainerEngine, type ContainerEngineOptions } from './container-engine.ts'

const UID_BASE = 0x5000_0000
const IDS = 65_536
const GUEST_SOCKET = '/tmp/guest.sock'
const GUEST_CLOSES_MS = 50
const LIMITS = { cpuCount: 2, memoryMib: 256, diskMib: 256, pids: 128 }
const native = join(import.meta.dirname, '../../../native')

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
const HOST_PROGRAMS = ['/bin/sh', '/bin/cat', '/bin/ls', '/usr/bin/id', '/bin/ps']

export interface GuestState {
  count: number
  hostname: string
  child: number
}

interface FixtureParts {
  dir: string
  runDir: string
  instance: string
  options: ContainerEngineOptions
  uppers: UpperStore
  layers: LayerStore
  base: Layer
}

export class SandboxFixture {
  readonly parts: FixtureParts
  readonly #slots = new Map<number, Slot>()

  private constructor(parts: FixtureParts) {
    this.parts = parts
  }

  /** Takes about 5 s, and 20 s more where CRIU was never built. @param instance prefix of its kernel objects */
  static async make(instance: string): Promise<SandboxFixture> {
    const dir = mkdtempSync(join(tmpdir(), 'engine-'))
    // Root of a sandbox looks its mounts up as another user of this machine.
    chmodSync(dir, 0o711)
    const runDir = join(dir, 'run')
    mkdirSync(runDir)
    mount('run', runDir, 'tmpfs', 0, 'size=32m,mode=711')
    const uppers = await UpperStore.open({
      file: join(dir, 'uppers'),
      mountPoint: join(runDir, 'uppers'),
      sizeMib: 2048,
    })
    const layers = new LayerStore({ layersDir: join(dir, 'layers'), mountsDir: join(runDir, 'layers') })
    const base = await layers.importDirectory(await guestTree(join(dir, 'tree'), GUEST))
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
      probe: {
        take: async () => uppers.take(64),
        give: async (upper) => uppers.release(upper),
        uidBase: UID_BASE + 100 * IDS,
      },
    }
    return new SandboxFixture({ dir, runDir, instance, options, uppers, layers, base })
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
    const { uppers, base } = this.parts
    return {
      sandboxId: `sandbox${index}`,
      slot: await this.slot(index),
      layers: [base],
      upper: changes.upper ?? uppers.take(LIMITS.diskMib),
      limits: LIMITS,
      hostname: `host${index}`,
      memoryDir: undefined,
      ...changes,
    }
  }

  memoryDir(): string {
    return mkdtempSync(join(this.parts.dir, 'memory-'))
  }

  /** The files a sandbox has written, as the layer that its clones start from. */
  layerOf(upper: Upper): Promise<Layer> {
    return this.parts.layers.importDirectory(join(upper.path, 'upper'))
  }

  /** Everything the fixture made; what an engine left behind in a slot makes it fail. */
  async remove(): Promise<void> {
    const { options, uppers, layers, runDir, dir } = this.parts
    for (const slot of this.#slots.values()) {
      umount2(slot.sysfsPath)
      await run('ip', ['netns', 'delete', slot.netnsPath.slice('/run/netns/'.length)])
    }
    await options.cgroups.remove()
    layers.unmountAll()
    await uppers.settled()
    await uppers.close()
    unmountIfMounted(join(runDir, 'dev'))
    umount2(runDir, 0)
    rmSync(dir, { recursive: true, force: true })
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

/** A root file system of this machine's own programs. @param guest its `/guest.mjs` */
export async function guestTree(dir: string, guest: string): Promise<string> {
  for (const path of ['bin', 'etc', 'mnt', 'root']) mkdirSync(join(dir, path), { recursive: true })
  for (const program of [process.execPath, ...HOST_PROGRAMS]) {
    copyFileSync(program, join(dir, 'bin', program.split('/').at(-1)!))
    for (const [library] of (await run('ldd', [program])).stdout.matchAll(/\/\S+/g)) {
      mkdirSync(join(dir, dirname(library)), { recursive: true })
      copyFileSync(library, join(dir, library))
    }
  }
  const source = join(native, 'attempt.c')
  await run('gcc', ['-static', '-Os', '-s', '-Wall', '-Werror', '-o', join(dir, 'bin/attempt'), source])
  writeFileSync(join(dir, 'guest.mjs'), guest)
  writeFileSync(join(dir, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\n')
  return dir
}
