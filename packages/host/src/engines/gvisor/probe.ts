import { copyFileSync, mkdirSync, mkdtempSync } from 'node:fs'
import { join } from 'node:path'
import type { Cgroup } from '../../linux/cgroup.ts'
import { releaseUserNamespace } from '../../linux/idmap.ts'
import { alive, processStartTime } from '../../linux/process.ts'
import type { Upper } from '../../storage/uppers.ts'
import type { Engine, EngineReport, EngineStart } from '../engine.ts'
import { NEW_NETWORK } from '../shim.ts'
import { PLATFORM, type Runsc, runscVersion } from './runsc.ts'

const INSTALL = 'npm run engine -- install gvisor'
const LIMITS = { cpuCount: 1, memoryMib: 128, diskMib: 16, pids: 64 }
/** No real slot has this number. */
export const PROBE_SLOT = 999_998

/** What the probe's only process is; it lies in the probe's upper. */
export const HOLD_COMMAND = ['/hold', 'hold'] as const

export interface ProbeOptions {
  /** An engine whose init is `HOLD_COMMAND`. */
  engine: Engine
  runsc: Runsc
  shimPath: string
  runDir: string
  cgroup: Cgroup
  upper: Upper
  uidBase: number
}

/**
 * Boots a sandbox of one process without a network, captures it and restores it. Every failure is an answer, not an
 * exception. Leaves nothing.
 */
export async function probeGvisor(options: ProbeOptions): Promise<EngineReport> {
  const { runsc, cgroup, uidBase, upper, shimPath } = options
  let version: string
  try {
    version = await runscVersion(runsc.path)
  } catch (error) {
    return unusable('', `runsc cannot be run: ${message(error)}`, INSTALL)
  }
  if (version !== runsc.version)
    return unusable(version, `it was ${runsc.version} when the server started`, 'Restart the server')
  cgroup.create()
  try {
    copyFileSync(shimPath, join(upper.path, 'upper', 'hold'))
    return await probed(options)
  } catch (error) {
    return unusable(version, message(error), 'needs root, user namespaces and idmapped mounts (Linux 5.19)')
  } finally {
    await cgroup.remove()
    await releaseUserNamespace(uidBase)
  }
}

async function probed(options: ProbeOptions): Promise<EngineReport> {
  const { engine } = options
  const start = probeStart(options)
  const { version } = options.runsc
  const booted = await engine.start(start)
  const memoryDir = mkdtempSync(join(options.upper.path, 'memory-'))
  try {
    await engine.capture(booted, { memoryDir, leaveRunning: false })
  } finally {
    await engine.stop(booted)
  }
  const restored = await engine.start({ ...start, memoryDir })
  const startTime = processStartTime(restored.initPid)
  const lives = startTime !== undefined && alive(restored.initPid, startTime)
  await engine.stop(restored)
  if (!lives) return unusable(version, 'a restored sandbox ended at once', INSTALL)
  return { usable: true, version, detail: `boots and restores memory (${PLATFORM})`, remedy: '' }
}

function probeStart({ cgroup, upper, uidBase, runDir }: ProbeOptions): EngineStart {
  const sysfsPath = join(runDir, 'probe-sys')
  mkdirSync(sysfsPath, { recursive: true })
  return {
    sandboxId: 'probe',
    slot: {
      index: PROBE_SLOT,
      netnsPath: NEW_NETWORK,
      address: '',
      uidBase,
      cgroupPaths: cgroup.paths,
      sysfsPath,
    },
    layers: [],
    upper,
    limits: LIMITS,
    hostname: 'probe',
    memoryDir: undefined,
  }
}

const unusable = (version: string, detail: string, remedy: string): EngineReport => ({
  usable: false,
  version,
  detail,
  remedy,
})

const message = (error: unknown): string => (error instanceof Error ? error.message : String(error))
