import { mkdtempSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { run } from '../../linux/process.ts'
import type { Engine, EngineReport, EngineStart } from '../engine.ts'
import { ProcessInstance } from '../instance.ts'
import { inProbeSlot, message, type ProbeMachine, unusable, usable } from '../probe.ts'
import { ownProcess } from '../process-engine.ts'
import type { Criu } from './checkpoint.ts'

const CAPTURE_REMEDY = 'npm run doctor -- --fix'
const LIMITS = { cpuCount: 1, memoryMib: 64, diskMib: 16, pids: 16 }
const PROBE_SLOT = 999_999

export interface ContainerProbe extends ProbeMachine {
  /** An engine whose init is `HOLD_COMMAND`. */
  engine: Engine
  criu: Criu | undefined
  crunPath: string
}

/** Boots a sandbox of one process in namespaces of its own, then captures and restores it. */
export async function probeContainer(options: ContainerProbe): Promise<EngineReport> {
  let version: string
  try {
    version = (await run(options.crunPath, ['--version'])).stdout.split('\n')[0] ?? ''
  } catch (error) {
    return unusable('', `crun cannot be run: ${message(error)}`, 'apt-get install crun')
  }
  return await inProbeSlot(options, { index: PROBE_SLOT, version, limits: LIMITS }, (start) =>
    probed(options, version, start),
  )
}

async function probed(
  { engine, criu }: ContainerProbe,
  version: string,
  start: EngineStart,
): Promise<EngineReport> {
  const booted = await engine.start(start)
  if (!criu) {
    await engine.stop(booted)
    return usable(version, 'cold boots only: there is no CRIU that works here', CAPTURE_REMEDY)
  }
  const memoryDir = mkdtempSync(join(start.upper.path, 'memory-'))
  const full = `${version}, CRIU ${criu.version}`
  try {
    // A dump runs in the sandbox's network namespace, which has no name here.
    const slot = { ...start.slot, netnsPath: `/proc/${booted.initPid}/ns/net` }
    await engine.capture(new ProcessInstance({ ...ownProcess(booted), slot }), {
      memoryDir,
      leaveRunning: false,
    })
    const restored = await engine.start({ ...start, memoryDir })
    const maps = readFileSync(`/proc/${restored.initPid}/maps`, 'utf8')
    await engine.stop(restored)
    return criu.kind === 'cow' && maps.includes('/pages-')
      ? usable(full, 'restores memory copy-on-write', '')
      : usable(full, 'restores memory by copying it: slower and larger', CAPTURE_REMEDY)
  } catch (error) {
    return usable(full, `cold boots only: ${message(error)}`, CAPTURE_REMEDY)
  } finally {
    await engine.stop(booted)
  }
}
