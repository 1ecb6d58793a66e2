/** What tests of engines need around them: a run directory on tmpfs, uppers, layers, and files of this machine to boot. */
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { mount, umount2 } from '../../linux/mount.ts'
import { run } from '../../linux/process.ts'
import type { Slot } from '../../slots/slots.ts'
import { type Layer, LayerStore } from '../../storage/layers.ts'
import { UpperStore } from '../../storage/uppers.ts'
import type { EngineStart, Limits } from '../engine.ts'
import type { ProbeSpace } from '../probe.ts'

const native = join(import.meta.dirname, '../../../native')
const HOST_PROGRAMS = ['/bin/sh', '/bin/cat', '/bin/ls', '/usr/bin/id', '/bin/ps']

export interface StageOptions {
  /** Beginning of its directory's name. */
  name: string
  /** `/guest.mjs` of the layer that sandboxes boot. */
  guest: string
  limits: Limits
  uppersMib: number
}

export interface StageParts {
  dir: string
  runDir: string
  uppers: UpperStore
  layers: LayerStore
  base: Layer
}

export class EngineStage {
  readonly parts: StageParts
  readonly #limits: Limits

  private constructor(parts: StageParts, limits: Limits) {
    this.parts = parts
    this.#limits = limits
  }

  /** Takes about 5 s. */
  static async make({ name, guest, limits, uppersMib }: StageOptions): Promise<EngineStage> {
    const dir = mkdtempSync(join(tmpdir(), `${name}-`))
    // Root of a sandbox looks its mounts up as another user of this machine.
    chmodSync(dir, 0o711)
    const runDir = join(dir, 'run')
    mkdirSync(runDir)
    mount('run', runDir, 'tmpfs', 0, 'size=64m,mode=711')
    const uppers = await UpperStore.open({
      file: join(dir, 'uppers.btrfs'),
      mountPoint: join(runDir, 'uppers'),
      sizeMib: uppersMib,
    })
    const layers = new LayerStore({ layersDir: join(dir, 'layers'), mountsDir: join(runDir, 'layers') })
    const base = await layers.importDirectory(await guestTree(join(dir, 'tree'), guest))
    return new EngineStage({ dir, runDir, uppers, layers, base }, limits)
  }

  plan(slot: Slot, changes: Partial<EngineStart>): EngineStart {
    return {
      sandboxId: `sandbox${slot.index}`,
      slot,
      layers: [this.parts.base],
      upper: changes.upper ?? this.parts.uppers.take(this.#limits.diskMib),
      limits: this.#limits,
      hostname: `host${slot.index}`,
      memoryDir: undefined,
      ...changes,
    }
  }

  memoryDir(): string {
    return mkdtempSync(join(this.parts.dir, 'memory-'))
  }

  probeSpace(uidBase: number, diskMib: number): ProbeSpace {
    const { uppers } = this.parts
    return {
      take: async () => uppers.take(diskMib),
      give: async (upper) => uppers.release(upper),
      uidBase,
    }
  }

  /** Fails when something of a sandbox is still there. */
  async remove(): Promise<void> {
    const { dir, runDir, uppers, layers } = this.parts
    layers.unmountAll()
    await uppers.settled()
    await uppers.close()
    umount2(runDir, 0)
    rmSync(dir, { recursive: true, force: true })
  }
}

/** A root file system of this machine's own programs. */
async function guestTree(dir: string, guest: string): Promise<string> {
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
