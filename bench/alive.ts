import type { JournalEntry } from '@sandbox/host/cells/journal'
import type { BenchServer } from './bench-server.ts'
import { availableMb, sandboxMemory } from './memory.ts'
import type { BenchSandbox } from './sandbox-client.ts'
import { mean } from './statistics.ts'
import { TEMPLATE } from './template.ts'

/** Memory per sandbox while many are alive, in MB. */
export interface AliveMemory {
  /** What it would take if nothing was shared: the baseline. */
  readonly rssMb: number
  readonly ussMb: number
  readonly pssMb: number
  /** What the kernel charges to the sandbox: its processes' own memory, and files in memory. */
  readonly chargedMb: number
  /** By how much the machine's available memory fell, which includes what the kernel keeps for a sandbox. */
  readonly machineMb: number
  readonly processes: number
}

export interface AliveReport {
  readonly count: number
  /** The agent has answered, nothing has run. */
  readonly started: AliveMemory
  /** `1+1` has run in each. */
  readonly used: AliveMemory
}

const AT_ONCE = 4

/** Starts `count` sandboxes, measures, runs code in each, measures again, kills all. */
export async function measureAlive(bench: BenchServer, count: number): Promise<AliveReport> {
  const beforeMb = availableMb()
  const sandboxes: BenchSandbox[] = []
  await inTurns(count, async () => {
    const sandbox = await bench.client.create(TEMPLATE)
    sandboxes.push(sandbox)
    await bench.client.health(sandbox)
  })
  const started = readMemory(bench, sandboxes, beforeMb)
  await inTurns(count, async (index) => {
    await bench.client.runCode(sandboxes[index]!, '1+1')
  })
  const used = readMemory(bench, sandboxes, beforeMb)
  await inTurns(count, (index) => bench.client.kill(sandboxes[index]!))
  return { count, started, used }
}

/** Memory per sandbox that waits in a pool, frozen before anybody asked for it. */
export function measurePooled(bench: BenchServer, beforeMb: number): AliveMemory {
  const waiting = bench.entries().filter(({ occupant, isReady }) => occupant === 'pooled' && isReady)
  return averageMemory(waiting, beforeMb)
}

function readMemory(bench: BenchServer, sandboxes: readonly BenchSandbox[], beforeMb: number): AliveMemory {
  const ids = new Set(sandboxes.map(({ id }) => id))
  const slots = bench.entries().filter(({ sandboxId }) => ids.has(sandboxId))
  if (slots.length !== sandboxes.length) throw new Error(`${slots.length} of ${sandboxes.length} are alive`)
  return averageMemory(slots, beforeMb)
}

function averageMemory(entries: readonly JournalEntry[], beforeMb: number): AliveMemory {
  const machineMb = (beforeMb - availableMb()) / entries.length
  const uses = entries.map(({ slot }) => sandboxMemory(slot.cgroupPaths[0]!))
  return {
    rssMb: mean(uses.map(({ rssMb }) => rssMb)),
    ussMb: mean(uses.map(({ ussMb }) => ussMb)),
    pssMb: mean(uses.map(({ pssMb }) => pssMb)),
    chargedMb: mean(uses.map(({ chargedMb }) => chargedMb)),
    machineMb,
    processes: mean(uses.map(({ processes }) => processes)),
  }
}

async function inTurns(count: number, task: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const work = async (): Promise<void> => {
    while (next < count) await task(next++)
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work))
}
