import { readFileSync } from 'node:fs'
import type { Case } from './case.ts'
import { cases } from './cases.ts'
import { HostUnderTest } from './host-under-test.ts'
import { report } from './report.ts'

/** Runs in the emulated machine: opens the host role with the engine that is asked for and puts it through the cases. */

export interface InsideOptions {
  engine: string
  /** Of the engine `microvm`. */
  monitor: string
  /** Of a longer run: how often the machine has been booted with this state before. */
  boot: number
  /** Names of cases; empty runs all of this boot. */
  only: readonly string[]
  /** Parts to run after the host has opened; empty runs all. */
  parts: readonly string[]
  /** The essential cases alone. */
  isShort: boolean
}

/** The part that everything builds on. */
const OPENING = 'open'
const LOG_PATH = '/run/host.log'
const LOG_BYTES = 12_000
const CASE_LIMIT_MS = 300_000

function readOptions(): InsideOptions {
  const encoded = /e2b\.options=(\S+)/.exec(readFileSync('/proc/cmdline', 'utf8'))?.[1] ?? ''
  const given = JSON.parse(Buffer.from(encoded, 'base64url').toString() || '{}') as Partial<InsideOptions>
  return {
    engine: 'container',
    monitor: 'firecracker',
    boot: 0,
    only: [],
    parts: [],
    isShort: false,
    ...given,
  }
}

function isWanted({ part, name, boot, engine, monitor, isEssential }: Case): boolean {
  if (boot !== options.boot || (engine && engine !== options.engine)) return false
  if (monitor && monitor !== options.monitor) return false
  if (options.isShort && !isEssential) return false
  if (part === OPENING) return true
  if (options.parts.length > 0 && !options.parts.includes(part)) return false
  return options.only.length === 0 || options.only.includes(name)
}

/** A case that hangs fails, and the parts after it still run. */
async function inTime<Result>(running: Promise<Result>): Promise<Result> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new Error(`no end after ${CASE_LIMIT_MS} ms`)), CASE_LIMIT_MS)
  try {
    return await Promise.race([running, late])
  } finally {
    clearTimeout(timer)
  }
}

const options = readOptions()
const host = new HostUnderTest(options.engine, options.monitor, LOG_PATH)
const since = (startMs: number): number => Math.round(performance.now() - startMs)
let failed = 0
const brokenParts = new Set<string>()
for (const { part, name, run } of cases.filter(isWanted)) {
  if (brokenParts.has(OPENING)) break
  if (brokenParts.has(part)) continue
  const startMs = performance.now()
  try {
    const facts = await inTime(run(host))
    report('passed', { name, ms: since(startMs), ...facts })
  } catch (error) {
    failed++
    report('failed', { name, ms: since(startMs), error: (error as Error).stack ?? String(error) })
    brokenParts.add(part)
  }
}
if (failed > 0) report('log', { text: readFileSync(LOG_PATH, 'utf8').slice(-LOG_BYTES) })
process.exit(failed === 0 ? 0 : 1)
