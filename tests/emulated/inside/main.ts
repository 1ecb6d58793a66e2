import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import type { Case } from './case.ts'
import { opening, selectCases } from './cases.ts'
import { HostUnderTest } from './host-under-test.ts'
import type { MachineFacts, Order } from './order.ts'
import { report } from './report.ts'
import { describeSandboxes } from './sandbox-processes.ts'

/**
 * Runs in the emulated machine: opens the host role with the engine that is asked for, says that it is ready, and puts
 * it through the parts that it is told to. Whoever watches may keep the machine as it is when it is ready.
 */

const LOG_PATH = '/run/host.log'
const LOG_BYTES = 12_000
const CASE_LIMIT_MS = 900_000

function readFacts(): MachineFacts {
  const encoded = /e2b\.options=(\S+)/.exec(readFileSync('/proc/cmdline', 'utf8'))?.[1] ?? ''
  return JSON.parse(Buffer.from(encoded, 'base64url').toString()) as MachineFacts
}

async function readOrder(): Promise<Order> {
  const lines = createInterface({ input: process.stdin, terminal: false })
  report('ready')
  const [line] = (await once(lines, 'line')) as [string]
  lines.close()
  return JSON.parse(line) as Order
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

/** In order; a part ends with the first of its cases that fails. @returns whether all passed */
async function runCases(cases: readonly Case[]): Promise<boolean> {
  const brokenParts = new Set<string>()
  for (const { part, name, run } of cases) {
    if (brokenParts.has(part)) continue
    const startMs = performance.now()
    const since = (): number => Math.round(performance.now() - startMs)
    try {
      const facts = await inTime(run(host))
      report('passed', { part, name, ms: since(), ...facts })
    } catch (error) {
      const reason = (error as Error).stack ?? String(error)
      const ms = since()
      const sandboxes = await describeSandboxes()
      report('failed', { part, name, ms, error: reason, shutDown: host.shutDown() })
      report('log', { text: sandboxes })
      brokenParts.add(part)
    }
  }
  return brokenParts.size === 0
}

const facts = readFacts()
const host = new HostUnderTest(facts.engine, facts.monitor, LOG_PATH)
const isFirstBoot = facts.boot === 0
let hasPassed = !isFirstBoot || (await runCases(opening))
if (hasPassed) hasPassed = await runCases(selectCases(facts, isFirstBoot ? await readOrder() : undefined))
if (!hasPassed) report('log', { text: readFileSync(LOG_PATH, 'utf8').slice(-LOG_BYTES) })
process.exit(hasPassed ? 0 : 1)
