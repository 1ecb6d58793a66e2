import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Context } from '@e2b/code-interpreter'
import { type BenchServer, openBenchServer } from './bench-server.ts'
import {
  CONTEXTS,
  type InterpreterResults,
  interpreterReport,
  type ParallelTimes,
  PRINTS,
  type ProbeTimes,
} from './interpreter-report.ts'
import { createOfficial, type OfficialSandbox, trustCertificatesOf } from './official-client.ts'
import { step } from './progress.ts'
import { describeLoad, untilQuiet } from './quiet.ts'
import { describeMachine } from './report.ts'
import { sideBySide } from './side-by-side.ts'
import { measureStarts, type StartTimes } from './starts.ts'

const SUM_ROUNDS = 300
const PRINT_ROUNDS = 10
const PARALLEL_ROUNDS = 20
const START_ROUNDS = 15
const POOL_SIZE = 3

/** Measures the code interpreter against what it drives. About two minutes. */
export async function benchInterpreter(): Promise<{ markdown: string; results: InterpreterResults }> {
  const machine = describeMachine()
  const fresh = await onServer(0, async (bench) => {
    const probed = await measureSandbox(bench)
    const starts = await measureResults(bench, 0)
    return { ...probed, fresh: starts }
  })
  const pooled = await onServer(POOL_SIZE, (bench) => measureResults(bench, POOL_SIZE))
  const results = { machine: `${machine}; ${describeLoad()}`, ...fresh, pooled }
  return { markdown: interpreterReport(results), results }
}

async function onServer<T>(poolSize: number, measure: (bench: BenchServer) => Promise<T>): Promise<T> {
  const bench = await openBenchServer(1, poolSize)
  try {
    trustCertificatesOf(bench)
    return await measure(bench)
  } finally {
    await bench.close()
  }
}

async function measureResults(bench: BenchServer, poolSize: number): Promise<StartTimes> {
  await measureStarts(bench, { atOnce: 1, rounds: 2, poolSize: 0 })
  await untilQuiet()
  step(`Create to first result, ${poolSize > 0 ? `with a pool of ${poolSize}` : 'without a pool'}`)
  return measureStarts(bench, { atOnce: 1, rounds: START_ROUNDS, poolSize })
}

async function measureSandbox(
  bench: BenchServer,
): Promise<Pick<InterpreterResults, 'probe' | 'outside' | 'outsidePrints' | 'parallel'>> {
  const official = await createOfficial(bench)
  const { sandbox } = official
  try {
    await untilQuiet()
    step(`1+1, prints and ${CONTEXTS} contexts inside the sandbox, in three ways`)
    const startedMs = performance.now()
    const contexts = await Promise.all(Array.from({ length: CONTEXTS }, () => sandbox.createCodeContext()))
    const createdMs = performance.now() - startedMs
    const probe = await measureWays(official, contexts)
    step('1+1 and prints from outside')
    const thin = { id: sandbox.sandboxId, accessToken: official.accessToken }
    const outside = await sideBySide(SUM_ROUNDS / 3, {
      'plain HTTP through the edge': () => bench.client.runCode(thin, '1+1'),
      'official client over TLS': () => sandbox.runCode('1+1'),
    })
    const code = `for i in range(${PRINTS}): print(i)`
    const outsidePrints = await sideBySide(PRINT_ROUNDS, {
      'plain HTTP through the edge': () => bench.client.runCode(thin, code),
      'official client over TLS': async () => {
        const { logs } = await sandbox.runCode(code)
        if (!logs.stdout.join('').endsWith(`${PRINTS - 1}\n`)) throw new Error('prints are missing')
      },
    })
    step(`${CONTEXTS} contexts in parallel`)
    const parallel = await measureParallel(official, contexts, createdMs)
    return { probe, outside, outsidePrints, parallel }
  } finally {
    await sandbox.kill()
  }
}

async function measureWays(
  { sandbox, accessToken }: OfficialSandbox,
  contexts: readonly Context[],
): Promise<ProbeTimes> {
  await sandbox.files.write(
    '/tmp/probe.py',
    readFileSync(join(import.meta.dirname, 'interpreter-probe.py'), 'utf8'),
  )
  const numbers = [SUM_ROUNDS, PRINT_ROUNDS, PARALLEL_ROUNDS, PRINTS]
  const words = [...numbers, accessToken ?? 'none', ...contexts.map(({ id }) => id)]
  const { stdout } = await sandbox.commands.run(`python3 /tmp/probe.py ${words.join(' ')}`, {
    timeoutMs: 300_000,
  })
  return JSON.parse(stdout) as ProbeTimes
}

async function measureParallel(
  { sandbox }: OfficialSandbox,
  contexts: readonly Context[],
  createdMs: number,
): Promise<ParallelTimes> {
  const inAll = async (code: string, of: readonly Context[]): Promise<number> => {
    const startedMs = performance.now()
    const answers = await Promise.all(of.map((context) => sandbox.runCode(code, { context })))
    const tookMs = performance.now() - startedMs
    if (answers.some(({ text }) => text !== '2')) throw new Error('a context has not answered')
    return tookMs
  }
  await inAll('1+1', contexts)
  const sleep = 'import time; time.sleep(1); 1+1'
  return {
    count: CONTEXTS,
    createdMs,
    oneSleepMs: await inAll(sleep, contexts.slice(0, 1)),
    allSleepMs: await inAll(sleep, contexts),
  }
}
