/**
 * The jail of a Firecracker: a directory that becomes its root, made by the jailer, in which this machine's files are
 * seen under fixed names. Memory snapshots name those, so every jail has the same.
 */
import { chmodSync, chownSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { MS_NOSUID, mount } from '../../linux/mount.ts'
import { mountsUnder } from '../../linux/mount-table.ts'
import type { Slot } from '../../slots/slots.ts'
import type { MachinePlan, MonitorCommand } from './monitor.ts'

const CGROUP_MOUNT = '/sys/fs/cgroup'
/** The jailer names the directory of all jails after the program. */
const PROGRAM = 'firecracker'
/** The binary that the jailer copies, the socket and what is bound: nothing else lies here. */
const JAILS_SIZE = 'size=75%,mode=0711'
/** Sockets, drives and event descriptors of one machine. */
const OPEN_FILES = 1024

/** As the jailed monitor names them. */
export const JAIL = {
  control: '/api.sock',
  kernel: '/kernel',
  initramfs: '/initramfs',
  memory: '/memory',
  state: '/state',
  memoryOut: '/memory.out',
  stateOut: '/state.out',
  drive: (index: number): string => `/drive${index}`,
} as const

export interface JailOptions {
  /** Static: it is copied into an empty root. */
  firecrackerPath: string
  jailerPath: string
  /** A directory that gets a tmpfs with device nodes. */
  jailsDir: string
  cgroupVersion: 1 | 2
}

export const jailRoot = ({ jailsDir }: Pick<JailOptions, 'jailsDir'>, slot: Pick<Slot, 'index'>): string =>
  join(jailsDir, PROGRAM, jailId(slot), 'root')

const jailId = ({ index }: Pick<Slot, 'index'>): string => `s${index}`

/** Removes a jail with what its monitor left. Idempotent; nothing runs in it. */
export function removeJail(options: Pick<JailOptions, 'jailsDir'>, slot: Pick<Slot, 'index'>): void {
  rmSync(join(jailRoot(options, slot), '..'), { recursive: true, force: true })
}

/** Makes the places at which the monitor will see this machine's files, and answers the jailer's command. */
export function prepareJail(options: JailOptions, plan: MachinePlan): MonitorCommand {
  const { jailsDir } = options
  mountJails(jailsDir)
  removeJail(options, plan.slot)
  const root = jailRoot(options, plan.slot)
  mkdirSync(root, { recursive: true, mode: 0o711 })
  for (const dir of [join(jailsDir, PROGRAM), join(root, '..'), root]) chmodSync(dir, 0o711)
  const binds = jailBinds(plan).map(({ from, to }) => ({ from, to: join(root, to) }))
  for (const { to } of binds) writeFileSync(to, '')
  for (const name of [JAIL.memoryOut, JAIL.stateOut]) writeFileSync(join(root, name), '', { mode: 0o600 })
  return { program: jailerCommand(options, plan), binds, pidFile: join(root, `${PROGRAM}.pid`) }
}

/** From here on no name in the jail is the monitor's to choose, should a guest take it over. */
export function closeJail(options: Pick<JailOptions, 'jailsDir'>, slot: Slot): void {
  const root = jailRoot(options, slot)
  for (const name of ['', 'dev', 'dev/net', 'run']) {
    chownSync(join(root, name), 0, 0)
    chmodSync(join(root, name), 0o711)
  }
}

/** Jails need device nodes that can be opened, which a run directory does not allow. */
function mountJails(jailsDir: string): void {
  mkdirSync(jailsDir, { recursive: true, mode: 0o711 })
  if (mountsUnder(jailsDir).length > 0) return
  mount('jails', jailsDir, 'tmpfs', MS_NOSUID, JAILS_SIZE)
}

function jailBinds({ drives, image, memoryDir }: MachinePlan): { from: string; to: string }[] {
  const seen = drives.map(({ path }, index) => ({ from: path, to: JAIL.drive(index) }))
  if (memoryDir === undefined) {
    const boot = [
      { from: image.kernelPath, to: JAIL.kernel },
      { from: image.initramfsPath, to: JAIL.initramfs },
    ]
    return [...seen, ...boot]
  }
  const restore = [
    { from: join(memoryDir, 'memory'), to: JAIL.memory },
    { from: join(memoryDir, 'state'), to: JAIL.state },
  ]
  return [...seen, ...restore]
}

/**
 * Uid, gid, root, pid namespace: the jailer's. Cgroup and network namespace are the slot's, which the shim has joined;
 * on cgroup v2 the jailer insists on joining one, so it is told the same.
 */
function jailerCommand(options: JailOptions, { slot }: MachinePlan): string[] {
  const uid = String(slot.uidBase)
  const group = relative(CGROUP_MOUNT, slot.cgroupPaths[0] ?? CGROUP_MOUNT)
  return [
    ...[options.jailerPath, '--id', jailId(slot), '--exec-file', options.firecrackerPath],
    ...['--uid', uid, '--gid', uid, '--chroot-base-dir', options.jailsDir, '--new-pid-ns'],
    ...['--cgroup-version', String(options.cgroupVersion)],
    ...(options.cgroupVersion === 2 ? ['--parent-cgroup', group] : []),
    ...['--resource-limit', `no-file=${OPEN_FILES}`],
    ...['--', '--api-sock', JAIL.control],
  ]
}
