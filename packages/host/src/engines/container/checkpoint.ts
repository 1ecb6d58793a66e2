import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { endOfLog } from '../log-end.ts'
import type { ShimCommand } from '../shim.ts'

/** A CRIU that passed its own check, as `criu/build.ts` answers it. */
export interface Criu {
  path: string
  /** `cow` maps page images copy-on-write; `stock` copies them. */
  kind: 'cow' | 'stock'
  version: string
}

/** Kernel objects outside the sandbox that its mounts come from, by the names that images use. */
export interface ExternalMounts {
  sysfsPath: string
  devicesPath: string
}

/** Files that are open but deleted are kept up to this size each, with the memory. */
const GHOST_LIMIT_BYTES = 1024 ** 3

/**
 * Common to dump and restore. The network namespace is the caller's, so it is in no image; connections are closed,
 * since nobody is at their other end any more; files that were deleted while open are linked again.
 */
const COMMON = [
  '-v1',
  '--manage-cgroups=ignore',
  '--tcp-close',
  '--network-lock',
  'skip',
  '--file-locks',
  '--skip-in-flight',
  '--link-remap',
]

export interface DumpOptions {
  criu: Criu
  initPid: number
  netnsPath: string
  memoryDir: string
  logPath: string
  /** Written by the restore of this sandbox, if it was restored copy-on-write. */
  cowImagesPath: string
  /** Frozen by the caller; stays frozen when the dump has ended. */
  freezerPath: string
  leaveRunning: boolean
  runDir: string
  /** Copied when the memory is written; both are paths of subvolumes. */
  upperCopy: { from: string; to: string } | undefined
}

const KEEP_UPPER = join(import.meta.dirname, '../../../native/keep-upper.sh')

export function dumpCommand(options: DumpOptions): ShimCommand {
  const { upperCopy } = options
  return {
    netns: options.netnsPath,
    environment: {
      CRIU_RUN_DIR: options.runDir,
      ...(upperCopy ? { E2B_UPPER: upperCopy.from, E2B_UPPER_COPY: upperCopy.to } : {}),
      ...(existsSync(options.cowImagesPath) ? { CRIU_COW_IMAGES: options.cowImagesPath } : {}),
    },
    program: [
      ...[options.criu.path, 'dump', ...COMMON],
      ...['-t', String(options.initPid), '-D', options.memoryDir, '-o', options.logPath],
      ...['--external', 'mnt[/sys]:sys', '--external', 'mnt[/dev]:dev'],
      ...['--freeze-cgroup', options.freezerPath, '--ghost-limit', String(GHOST_LIMIT_BYTES)],
      ...(options.leaveRunning ? ['--leave-running'] : []),
      ...(upperCopy ? ['--action-script', KEEP_UPPER] : []),
    ],
  }
}

export interface RestoreOptions {
  criu: Criu
  /** What `-D` gets: the snapshot's directory under a path of the slot. */
  imagesPath: string
  rootPath: string
  external: ExternalMounts
  logPath: string
  pidFile: string
  cowImagesPath: string
  ownImagesPath: string
  runDir: string
}

/** Program and environment of a restore; the caller adds cgroups, network namespace and binds. */
export function restoreProgram(options: RestoreOptions): Pick<ShimCommand, 'program' | 'environment'> {
  const { external } = options
  return {
    environment:
      options.criu.kind === 'stock'
        ? {}
        : {
            CRIU_RUN_DIR: options.runDir,
            CRIU_OWN_IMAGES: options.ownImagesPath,
            CRIU_COW_IMAGES: options.cowImagesPath,
          },
    program: [
      ...[options.criu.path, 'restore', ...COMMON],
      ...['-D', options.imagesPath, '-o', options.logPath, '--root', options.rootPath],
      ...['--external', `mnt[sys]:${external.sysfsPath}`, '--external', `mnt[dev]:${external.devicesPath}`],
      ...['--restore-detached', '--pidfile', options.pidFile],
    ],
  }
}

/** The errors in a log of CRIU or crun, else its last lines; at most 2,000 characters. */
export function logTail(path: string): string {
  const text = endOfLog(path)
  if (text === '') return 'it wrote no log'
  const lines = text.split('\n')
  const errors = lines.filter((line) => line.includes('Error'))
  return (errors.length > 0 ? errors : lines).slice(-8).join('\n').slice(-2_000)
}
