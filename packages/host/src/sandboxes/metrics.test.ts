import { expect, test } from 'vitest'
import type { Cell } from '../cells/cells.ts'
import type { Usage } from '../engines/engine.ts'
import { Metrics } from './metrics.ts'

test('what was ended for its memory is told once, under the name of its sandbox', async () => {
  const usage: Usage = { cpuUsec: 0, memoryBytes: 0, memoryCacheBytes: 0, pids: 1, oomKills: 0 }
  const limits = { cpuCount: 1, memoryMib: 64, diskMib: 64, pids: 16 }
  const cell = { limits, startedAtMs: Date.now(), usage: async () => usage } as Partial<Cell> as Cell
  const told: object[] = []
  const metrics = new Metrics({
    cells: () => [['one', cell]],
    uppers: { usageBytes: () => 0 },
    log: { warn: (line: object) => void told.push(line) },
  })
  for (const kills of [0, 2, 2, 3]) {
    usage.oomKills = kills
    await metrics.read([])
  }
  expect(told).toMatchObject([
    { sandboxId: 'one', kills: 2 },
    { sandboxId: 'one', kills: 1 },
  ])
})
