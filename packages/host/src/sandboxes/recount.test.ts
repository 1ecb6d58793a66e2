import { pino } from 'pino'
import { expect, test } from 'vitest'
import type { Cell } from '../cells/cells.ts'
import type { Engine } from '../engines/engine.ts'
import type { Upper } from '../storage/uppers.ts'
import { plainEngine } from '../testing/plain-engine.ts'
import { recountFiles } from './recount.ts'

const cellOf = (id: string, writtenIn: Engine['writtenIn']): [string, Cell] => {
  const engine: Partial<Engine> = { ...plainEngine, writtenIn }
  return [id, { engine, upper: { id, path: id, capMib: 16 } } as Partial<Cell> as Cell]
}

test('one whose files cannot be counted keeps no other from it, and a disk of a guest is left alone', async () => {
  const counted: string[] = []
  const recount = async ({ id }: Upper): Promise<number> => {
    counted.push(id)
    if (id === 'ends') throw new Error('it is gone')
    return 0
  }
  const cells = [cellOf('ends', 'upper'), cellOf('machine', 'memory'), cellOf('lives', 'upper')]
  await recountFiles(cells, { recount }, pino({ level: 'silent' }))
  expect(counted).toEqual(['ends', 'lives'])
})
