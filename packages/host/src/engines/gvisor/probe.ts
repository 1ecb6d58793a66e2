import { mkdtempSync } from 'node:fs'
import { join } from 'node:path'
import { alive, processStartTime } from '../../linux/process.ts'
import type { Engine, EngineReport, EngineStart } from '../engine.ts'
import { inProbeSlot, message, type ProbeMachine, unusable, usable } from '../probe.ts'
import { PLATFORM, type Runsc, runscVersion } from './runsc.ts'

const INSTALL = 'npm run engine -- install gvisor'
const LIMITS = { cpuCount: 1, memoryMib: 128, diskMib: 16, pids: 64 }
const PROBE_SLOT = 999_998

export interface GvisorProbe extends ProbeMachine {
  /** An engine whose init is `HOLD_COMMAND`. */
  engine: Engine
  runsc: Runsc
}

/** Boots a sandbox of one process without a network, captures it and restores it. */
export async function probeGvisor(options: GvisorProbe): Promise<EngineReport> {
  const { runsc } = options
  let version: string
  try {
    version = await runscVersion(runsc.path)
  } catch (error) {
    return unusable('', `runsc cannot be run: ${message(error)}`, INSTALL)
  }
  if (version !== runsc.version)
    return unusable(version, `it was ${runsc.version} when the server started`, 'Restart the server')
  return await inProbeSlot(options, { index: PROBE_SLOT, version, limits: LIMITS }, (start) =>
    probed(options, start),
  )
}

async function probed({ engine, runsc }: GvisorProbe, start: EngineStart): Promise<EngineReport> {
  const { version } = runsc
  const booted = await engine.start(start)
  const memoryDir = mkdtempSync(join(start.upper.path, 'memory-'))
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
  return usable(version, `boots and restores memory (${PLATFORM})`, '')
}
