import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type Inventory, takeInventory } from '../tests/system/harness/leftovers.ts'
import { type BenchServer, openBenchServer } from './bench-server.ts'
import { residentMb } from './memory.ts'
import { step } from './progress.ts'
import { describeMachine, table } from './report.ts'
import { ServerHeap } from './server-heap.ts'
import { mean } from './statistics.ts'
import { TEMPLATE } from './template.ts'

/** What exists because of the server, before and after. */
interface Count extends Inventory {
  /** All mounts in its run directory: layers, disks, what the slots keep. */
  mounts: number
  /** Files and directories in its state and run directories. */
  files: number
  serverFds: number
  serverChildren: number
}

export interface CyclesResults {
  /** As it was when the run began. */
  readonly machine: string
  readonly cycles: number
  readonly seconds: number
  readonly before: Count
  readonly after: Count
  /** Live heap of the server after a collection, at equal distances. */
  readonly heapMb: readonly number[]
  readonly residentMb: readonly number[]
  readonly isClean: boolean
}

const INSPECTOR_PORT = 4078
const SAMPLES = 30
const AT_ONCE = 2
const SETTLE_WITHIN_MS = 20_000
const LOOK_EVERY_MS = 200
/** A third that grew by more than this is a leak: 300 sandboxes that each left 10 kB. */
const FLAT_WITHIN_MB = 3

/** Creates and kills `count` sandboxes, code run in each, on a server of its own. */
export async function benchCycles(count: number): Promise<{ markdown: string; results: CyclesResults }> {
  const machine = describeMachine()
  const bench = await openBenchServer(1, 0, { NODE_OPTIONS: `--inspect=127.0.0.1:${INSPECTOR_PORT}` })
  try {
    const heap = await ServerHeap.connect(INSPECTOR_PORT)
    step('Warming up')
    await cycle(bench, 20)
    const before = await settledCount(bench)
    const startedMs = performance.now()
    const heapMb: number[] = []
    const residents: number[] = []
    for (let sample = 0; sample < SAMPLES; sample++) {
      const [from, to] = [sample, sample + 1].map((edge) => Math.round((count * edge) / SAMPLES))
      await cycle(bench, to! - from!)
      heapMb.push(await heap.usedMb())
      residents.push(residentMb(bench.server.pid()))
      if (sample % 5 === 4) step(`${to} of ${count} cycles`)
    }
    const seconds = (performance.now() - startedMs) / 1000
    const after = await settledCount(bench, before)
    heap.close()
    const isSame = JSON.stringify(after) === JSON.stringify(before)
    const isFlat = growth(heapMb) <= FLAT_WITHIN_MB
    const results = {
      ...{ machine, cycles: count, seconds, before, after, heapMb, residentMb: residents },
      isClean: isSame && isFlat,
    }
    return { markdown: cyclesReport(results), results }
  } finally {
    await bench.close()
  }
}

async function cycle(bench: BenchServer, count: number): Promise<void> {
  let next = 0
  const work = async (): Promise<void> => {
    while (next++ < count) {
      const sandbox = await bench.client.create(TEMPLATE)
      await bench.client.runCode(sandbox, '1+1')
      await bench.client.kill(sandbox)
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work))
}

/** Slots and disks are recycled after the answer: counts until they are `wanted`, or have stopped to change. */
async function settledCount(bench: BenchServer, wanted?: Count): Promise<Count> {
  const endsAtMs = performance.now() + SETTLE_WITHIN_MS
  let last = ''
  for (;;) {
    await delay(wanted ? LOOK_EVERY_MS : SETTLE_WITHIN_MS / 10)
    const count = takeCount(bench)
    const text = JSON.stringify(count)
    const isSettled = wanted ? text === JSON.stringify(wanted) : text === last
    if (isSettled || performance.now() > endsAtMs) return count
    last = text
  }
}

function takeCount({ server }: BenchServer): Count {
  const { stateDir, runDir } = server.config
  const pid = server.pid()
  return {
    ...takeInventory(server.config),
    mounts: readFileSync('/proc/self/mountinfo', 'utf8').split(` ${runDir}`).length - 1,
    files: [stateDir, runDir, join(runDir, 'uppers')].map(filesIn).reduce((a, b) => a + b, 0),
    serverFds: readdirSync(`/proc/${pid}/fd`).length,
    serverChildren: readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean)
      .length,
  }
}

/** Without what is mounted below: layers have a hundred thousand files that are nobody's leftovers. */
const filesIn = (dir: string): number =>
  execFileSync('find', [dir, '-xdev'], { encoding: 'utf8' }).split('\n').length - 1

const thirds = (values: readonly number[]): [first: number, last: number] => {
  const third = Math.max(1, Math.floor(values.length / 3))
  return [mean(values.slice(0, third)), mean(values.slice(-third))]
}

const growth = (values: readonly number[]): number => {
  const [first, last] = thirds(values)
  return last - first
}

function cyclesReport(results: CyclesResults): string {
  const { cycles, seconds, before, after, isClean } = results
  const counts = (Object.keys(before) as (keyof Count)[]).map((name) => [
    name,
    String(before[name]),
    String(after[name]),
  ])
  const memory = (name: string, values: readonly number[]): string[] => [
    name,
    ...thirds(values).map((value) => value.toFixed(1)),
  ]
  const rate = `${cycles} creates, \`1+1\`, kills in ${seconds.toFixed(0)} s (${(cycles / seconds).toFixed(1)} a second, ${AT_ONCE} at once)`
  return [
    `Machine: ${results.machine}.`,
    `${rate}: ${isClean ? 'nothing is left, memory is flat' : '**something is left or grew**'}.`,
    table(['Of this instance', 'before', 'after'], counts),
    table(
      ['Server', 'first third', 'last third'],
      [memory('live heap MB', results.heapMb), memory('resident MB', results.residentMb)],
    ),
  ].join('\n\n')
}
