/** What probes of engines have in common: a slot that no sandbox has, and what they answer. */
import { copyFileSync, mkdirSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { CgroupRoot } from '../linux/cgroup-root.ts'
import { releaseUserNamespace } from '../linux/idmap.ts'
import { isDiskFull } from '../linux/shortage.ts'
import type { Slot } from '../slots/slots.ts'
import type { Upper } from '../storage/uppers.ts'
import type { EngineReport, EngineStart, Limits } from './engine.ts'
import { NEW_NETWORK } from './shim.ts'

/** What a probe's only process is; it lies in the probe's upper. */
export const HOLD_COMMAND = ['/hold', 'hold'] as const

/** An upper of its own and ids that no slot has. */
export interface ProbeSpace {
  take: () => Promise<Upper>
  give: (upper: Upper) => Promise<void>
  uidBase: number
}

export interface ProbeMachine {
  runDir: string
  shimPath: string
  cgroups: CgroupRoot
  probe: ProbeSpace
}

export interface ProbeRoom {
  /** No real slot has this number. */
  index: number
  /** Of the engine, for the answer. */
  version: string
  limits: Limits
}

/**
 * Gives `work` a start of `HOLD_COMMAND` without a network, in a slot of its own. Every failure is an answer, not an
 * exception, but for a lack of room, which says nothing about the engine. Leaves nothing.
 */
export async function inProbeSlot(
  machine: ProbeMachine,
  { index, version, limits }: ProbeRoom,
  work: (start: EngineStart) => Promise<EngineReport>,
): Promise<EngineReport> {
  const { runDir, shimPath, probe } = machine
  const upper = await probe.take()
  const cgroup = machine.cgroups.cgroup(String(index))
  const sysfsPath = join(runDir, 'probe-sys')
  const slot = probeSlot(index, probe.uidBase, cgroup.paths, sysfsPath)
  try {
    mkdirSync(sysfsPath, { recursive: true })
    cgroup.create()
    copyFileSync(shimPath, join(upper.path, 'upper', 'hold'))
    return await work({
      sandboxId: 'probe',
      slot,
      layers: [],
      upper,
      limits,
      hostname: 'probe',
      memoryDir: undefined,
    })
  } catch (error) {
    if (isDiskFull(error)) throw error
    return unusable(version, message(error), remedyOf(runDir))
  } finally {
    await cgroup.remove()
    await releaseUserNamespace(probe.uidBase)
    for (const path of [sysfsPath, join(runDir, 'slots', String(index))])
      rmSync(path, { recursive: true, force: true })
    await probe.give(upper)
  }
}

function remedyOf(runDir: string): string {
  const closed = closedDirectory(runDir)
  if (closed) return `chmod o+x ${closed}: sandboxes are nobody on this machine and must pass it`
  return 'needs root, user namespaces and idmapped mounts (Linux 5.19)'
}

/** The topmost directory on the way to a path, itself included, that others may not pass; undefined: there is none. */
export function closedDirectory(path: string): string | undefined {
  const above = path === dirname(path) ? undefined : closedDirectory(dirname(path))
  return above ?? ((statSync(path).mode & OTHERS_MAY_PASS) === 0 ? path : undefined)
}

const OTHERS_MAY_PASS = 0o001

export const probeSlot = (
  index: number,
  uidBase: number,
  cgroupPaths: readonly string[],
  sysfsPath: string,
): Slot => ({ index, netnsPath: NEW_NETWORK, address: '', uidBase, cgroupPaths, sysfsPath })

export const usable = (version: string, detail: string, remedy: string): EngineReport => ({
  usable: true,
  version,
  detail,
  remedy,
})

export const unusable = (version: string, detail: string, remedy: string): EngineReport => ({
  usable: false,
  version,
  detail,
  remedy,
})

export const message = (error: unknown): string => (error instanceof Error ? error.message : String(error))
