import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Cgroup } from '../../linux/cgroup.ts'
import { releaseUserNamespace } from '../../linux/idmap.ts'
import { run } from '../../linux/process.ts'
import type { Slot } from '../../slots.ts'
import type { Upper } from '../../storage/uppers.ts'
import type { Engine, EngineReport, EngineStart } from '../engine.ts'
import { ProcessInstance } from '../instance.ts'
import { NEW_NETWORK } from '../shim.ts'
import type { Criu } from './checkpoint.ts'

const CAPTURE_REMEDY = 'npm run doctor -- --fix'
const LIMITS = { cpuCount: 1, memoryMib: 64, diskMib: 16, pids: 16 }

/** What the probe's only process is; it lies in the probe's upper. */
export const HOLD_COMMAND = ['/hold', 'hold'] as const
/** No real slot has this number. */
export const PROBE_SLOT = 999_999

export interface ProbeOptions {
  /** An engine whose init is `HOLD_COMMAND`. */
  engine: Engine
  cgroup: Cgroup
  criu: Criu | undefined
  crunPath: string
  shimPath: string
  runDir: string
  upper: Upper
  uidBase: number
}

/**
 * Boots a sandbox of one process in namespaces of its own, then captures and restores it. Every failure is an
 * answer, not an exception. Leaves nothing.
 */
export async function probeContainer(options: ProbeOptions): Promise<EngineReport> {
  let version: string
  try {
    version = (await run(options.crunPath, ['--version'])).stdout.split('\n')[0] ?? ''
  } catch (error) {
    return unusable('', `crun cannot be run: ${message(error)}`, 'apt-get install crun')
  }
  const sysfsPath = join(options.runDir, 'probe-sys')
  mkdirSync(sysfsPath, { recursive: true })
  options.cgroup.create()
  try {
    copyFileSync(options.shimPath, join(options.upper.path, 'upper', 'hold'))
    return await probed(options, version, sysfsPath)
  } catch (error) {
    return unusable(version, message(error), 'needs root, user namespaces and idmapped mounts (Linux 5.19)')
  } finally {
    await options.cgroup.remove()
    await releaseUserNamespace(options.uidBase)
    rmSync(sysfsPath, { recursive: true, force: true })
  }
}

async function probed(options: ProbeOptions, version: string, sysfsPath: string): Promise<EngineReport> {
  const { engine, criu } = options
  const start = probeStart(options, sysfsPath)
  const booted = await engine.start(start)
  if (!criu) {
    await engine.stop(booted)
    return report(version, 'cold boots only: there is no CRIU that works here', CAPTURE_REMEDY)
  }
  const memoryDir = mkdtempSync(join(options.upper.path, 'memory-'))
  const full = `${version}, CRIU ${criu.version}`
  try {
    // A dump runs in the sandbox's network namespace, which has no name here.
    const slot = { ...start.slot, netnsPath: `/proc/${booted.initPid}/ns/net` }
    const { init, exited } = booted as ProcessInstance
    const { sandboxId, upper } = start
    await engine.capture(new ProcessInstance({ sandboxId, slot, upper, init, exited }), {
      memoryDir,
      leaveRunning: false,
    })
    const restored = await engine.start({ ...start, memoryDir })
    const maps = readFileSync(`/proc/${restored.initPid}/maps`, 'utf8')
    await engine.stop(restored)
    return criu.kind === 'cow' && maps.includes('/pages-')
      ? report(full, 'restores memory copy-on-write', '')
      : report(full, 'restores memory by copying it: slower and larger', CAPTURE_REMEDY)
  } catch (error) {
    return report(full, `cold boots only: ${message(error)}`, CAPTURE_REMEDY)
  } finally {
    await engine.stop(booted)
  }
}

function probeStart(options: ProbeOptions, sysfsPath: string): EngineStart {
  const slot: Slot = {
    index: PROBE_SLOT,
    netnsPath: NEW_NETWORK,
    address: '',
    uidBase: options.uidBase,
    cgroupPaths: options.cgroup.paths,
    sysfsPath,
  }
  return {
    sandboxId: 'probe',
    slot,
    layers: [],
    upper: options.upper,
    limits: LIMITS,
    hostname: 'probe',
    memoryDir: undefined,
  }
}

const report = (version: string, detail: string, remedy: string): EngineReport => ({
  usable: true,
  version,
  detail,
  remedy,
})

const unusable = (version: string, detail: string, remedy: string): EngineReport => ({
  usable: false,
  version,
  detail,
  remedy,
})

const message = (error: unknown): string => (error instanceof Error ? error.message : String(error))
