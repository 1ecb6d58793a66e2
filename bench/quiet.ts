import { readFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { step } from './progress.ts'

/** Other work on the machine is the largest error of a measurement: each series waits for a quiet moment. */

const QUIET_SHARE = 0.85
const SAMPLE_MS = 500
const WAIT_MS = 15_000
let series = 0
let busySeries = 0

/** Waits up to 15 s for a moment in which the processors are idle; measures anyway then, and says so. */
export async function untilQuiet(): Promise<void> {
  const endsAtMs = performance.now() + WAIT_MS
  let idle = await idleShare()
  while (idle < QUIET_SHARE && performance.now() < endsAtMs) idle = await idleShare()
  series++
  if (idle >= QUIET_SHARE) return
  busySeries++
  step(`the machine is busy with other work: only ${Math.round(idle * 100)} % idle`)
}

/** At the end of a run: how far it was disturbed. The load average counts the run's own work too. */
export const describeLoad = (): string =>
  `at the end ${loadavg()[0]!.toFixed(1)}; ${busySeries} of ${series} series began beside other work`

async function idleShare(): Promise<number> {
  const before = processorTimes()
  await delay(SAMPLE_MS)
  const after = processorTimes()
  return (after.idle - before.idle) / Math.max(1, after.total - before.total)
}

/** In clock ticks; waiting for a disk is no work of a processor. */
function processorTimes(): { idle: number; total: number } {
  const [first] = readFileSync('/proc/stat', 'utf8').split('\n')
  const ticks = first!.trim().split(/\s+/).slice(1).map(Number)
  return { idle: ticks[3]! + ticks[4]!, total: ticks.reduce((sum, value) => sum + value, 0) }
}
