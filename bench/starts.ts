import { setTimeout as delay } from 'node:timers/promises'
import type { BenchServer } from './bench-server.ts'
import type { BenchSandbox } from './sandbox-client.ts'
import { TEMPLATE } from './template.ts'

/** How long starts take on a running server. All times in milliseconds from sending the create. */
export interface StartTimes {
  readonly createdMs: number[]
  /** The agent answered `GET /health` through the edge. */
  readonly agentMs: number[]
  /** That request alone, at the slot's address. */
  readonly directHealthMs: number[]
  /** `1+1` through port 49999 had its result. */
  readonly resultMs: number[]
  readonly killMs: number[]
}

export interface Throughput {
  readonly perSecond: number
  readonly count: number
}

/** Between rounds: recycling of slots and disks is not what is measured. */
const SETTLE_MS = 150

export const noTimes = (): StartTimes => ({
  createdMs: [],
  agentMs: [],
  directHealthMs: [],
  resultMs: [],
  killMs: [],
})

/**
 * Rounds of `atOnce` creates, each to its first result; all are killed before the next round.
 * @param times receives what is measured
 */
export async function measureStarts(
  bench: BenchServer,
  options: { atOnce: number; rounds: number; poolSize: number; between?: () => Promise<void> },
  times: StartTimes = noTimes(),
): Promise<StartTimes> {
  for (let round = 0; round < options.rounds; round++) {
    if (options.poolSize > 0) await bench.poolFilled(Math.min(options.poolSize, options.atOnce))
    await delay(SETTLE_MS)
    const one = async (): Promise<BenchSandbox> => {
      const startedMs = performance.now()
      const sandbox = await bench.client.create(TEMPLATE)
      times.createdMs.push(performance.now() - startedMs)
      await bench.client.health(sandbox)
      times.agentMs.push(performance.now() - startedMs)
      const text = await bench.client.runCode(sandbox, '1+1')
      times.resultMs.push(performance.now() - startedMs)
      if (text !== '2') throw new Error(`1+1 is ${text}`)
      return sandbox
    }
    const sandboxes = await Promise.all(Array.from({ length: options.atOnce }, one))
    for (const sandbox of sandboxes) {
      if (options.atOnce === 1) times.directHealthMs.push(await directHealth(bench, sandbox))
      const killedMs = performance.now()
      await bench.client.kill(sandbox)
      times.killMs.push(performance.now() - killedMs)
    }
    await options.between?.()
  }
  return times
}

async function directHealth(bench: BenchServer, { id }: BenchSandbox): Promise<number> {
  const entry = bench.entries().find(({ sandboxId }) => sandboxId === id)
  if (!entry) throw new Error(`sandbox ${id} is in no slot`)
  const startedMs = performance.now()
  await bench.client.healthAt(entry.slot.address)
  return performance.now() - startedMs
}

/** Creates, asks the agent and kills, over and over, by `workers` at once for `forMs`. */
export async function measureThroughput(
  bench: BenchServer,
  options: { workers: number; forMs: number },
): Promise<Throughput> {
  const startedMs = performance.now()
  let count = 0
  const work = async (): Promise<void> => {
    while (performance.now() - startedMs < options.forMs) {
      const sandbox = await bench.client.create(TEMPLATE)
      await bench.client.health(sandbox)
      await bench.client.kill(sandbox)
      count += 1
    }
  }
  await Promise.all(Array.from({ length: options.workers }, work))
  return { perSecond: (count * 1000) / (performance.now() - startedMs), count }
}

/** First results with the official JavaScript client, over TLS by host name. */
export async function measureOfficialClient(bench: BenchServer, rounds: number): Promise<number[]> {
  const { Sandbox } = await import('@e2b/code-interpreter')
  const environment = bench.server.clientEnv
  const connection = { apiKey: environment.E2B_API_KEY!, domain: environment.E2B_DOMAIN! }
  const resultMs: number[] = []
  for (let round = -1; round < rounds; round++) {
    await delay(SETTLE_MS)
    const startedMs = performance.now()
    const sandbox = await Sandbox.create(connection)
    const { text } = await sandbox.runCode('1+1')
    if (round >= 0) resultMs.push(performance.now() - startedMs)
    await sandbox.kill()
    if (text !== '2') throw new Error(`1+1 is ${text}`)
  }
  return resultMs
}
