import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { LayerReferences } from './layer-references.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'references-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

const open = (name: string, hostId = 'here'): LayerReferences => {
  const stateDir = join(dir, name)
  if (hostId === 'here') mkdirSync(stateDir, { recursive: true })
  return new LayerReferences(join(dir, 'references'), { name, hostId, stateDir })
}

test('what one instance claims the others see, also when its daemon is gone', () => {
  expect(open('one').claim(['a', 'b'])).toBe(true)
  const two = open('two')
  two.claim(['c'])
  expect([...two.ofAll()].sort()).toEqual(['a', 'b', 'c'])
  const again = open('one')
  expect(again.claim(['b'])).toBe(false)
  expect(again.replace(new Set(['b', 'd']))).toEqual(['a'])
  expect([...two.ofAll()].sort()).toEqual(['b', 'c', 'd'])
  again.removeLayers()
  expect([...two.ofAll()]).toEqual(['c'])
})

test('an instance whose state was removed needs nothing; one of another machine cannot be judged', () => {
  open('gone').claim(['a'])
  open('far', 'elsewhere').claim(['b'])
  rmSync(join(dir, 'gone'), { recursive: true })
  expect([...open('judge').ofAll()]).toEqual(['b'])
  expect(readdirSync(join(dir, 'references'))).toEqual(['far.json'])
})

test('what cannot be read is not taken for nothing', () => {
  const one = open('one')
  writeFileSync(join(dir, 'references', 'cut.json'), '{"name": "cu')
  expect(() => one.ofAll()).toThrow()
})

test('snapshots outlive the layers of an instance, and are not known while one says nothing', () => {
  const one = open('one')
  one.replace(new Set(['a']), new Set(['s']))
  open('one').removeLayers()
  const two = open('two')
  expect([[...two.ofAll()], [...two.snapshotsOfAll()!]]).toEqual([[], ['s']])
  const older = { name: 'older', hostId: 'elsewhere', stateDir: '/nowhere', digests: ['b'] }
  writeFileSync(join(dir, 'references', 'older.json'), JSON.stringify(older))
  expect([[...two.ofAll()], two.snapshotsOfAll()]).toEqual([['b'], undefined])
})
