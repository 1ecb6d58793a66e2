import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Sandbox } from '@e2b/code-interpreter'
import type { BenchServer } from './bench-server.ts'
import { connectionTo, createOfficial } from './official-client.ts'
import type { Comparison } from './side-by-side.ts'

/** Pause and resume of a sandbox with 500 MiB of random memory, against an idle one and against the bare disk. */

const MIB = 500
const ROUNDS = 3
const RESUMED_FOR_MS = 900_000

interface PauseTimes {
  readonly pauseMs: number[]
  readonly resumeMs: number[]
  readonly resultMs: number[]
  readonly readMs: number[]
}

export async function measurePauses(bench: BenchServer): Promise<Comparison[]> {
  const diskMs: number[] = []
  const idle = noTimes()
  const large = noTimes()
  for (let round = 0; round < ROUNDS; round++) {
    diskMs.push(writeToDisk(bench.server.config.stateDir))
    await pauseOnce(bench, 0, idle)
    await pauseOnce(bench, MIB, large)
  }
  const name = `with ${MIB} MiB`
  return [
    {
      title: 'Pause',
      series: [
        { name: `\`dd\` of ${MIB} MiB and fsync`, values: diskMs },
        { name: 'idle', values: idle.pauseMs },
        { name, values: large.pauseMs },
      ],
    },
    compare('Resume', idle.resumeMs, large.resumeMs),
    compare('Resume to first result', idle.resultMs, large.resultMs),
    compare(`Resume to all of the ${MIB} MiB read`, idle.readMs, large.readMs),
  ]
}

const noTimes = (): PauseTimes => ({ pauseMs: [], resumeMs: [], resultMs: [], readMs: [] })

const compare = (title: string, idleMs: number[], largeMs: number[]): Comparison => ({
  title,
  series: [
    { name: 'idle sandbox', values: idleMs },
    { name: `with ${MIB} MiB`, values: largeMs },
  ],
})

async function pauseOnce(bench: BenchServer, mib: number, times: PauseTimes): Promise<void> {
  const { sandbox } = await createOfficial(bench)
  await sandbox.runCode(`import os; block = os.urandom(${mib} << 20)`)
  let startedMs = performance.now()
  const since = (): number => performance.now() - startedMs
  await sandbox.pause()
  times.pauseMs.push(since())
  startedMs = performance.now()
  const resumed = await Sandbox.connect(sandbox.sandboxId, {
    ...connectionTo(bench),
    timeoutMs: RESUMED_FOR_MS,
  })
  times.resumeMs.push(since())
  const { text } = await resumed.runCode('len(block)')
  times.resultMs.push(since())
  if (text !== String(mib * 2 ** 20)) throw new Error(`the block has ${text} bytes after the pause`)
  await resumed.runCode('len(block[::4096])')
  times.readMs.push(since())
  await resumed.kill()
}

/** Zeros of this size are written to the disk, until they are there. */
function writeToDisk(dir: string): number {
  const own = mkdtempSync(join(dir, 'bench-'))
  try {
    const startedMs = performance.now()
    execFileSync('dd', [
      'if=/dev/zero',
      `of=${own}/block`,
      'bs=1M',
      `count=${MIB}`,
      'conv=fsync',
      'status=none',
    ])
    return performance.now() - startedMs
  } finally {
    rmSync(own, { recursive: true })
  }
}
