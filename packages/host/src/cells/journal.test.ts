import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { plainConfig, plainLimits } from '../testing/plain-template.ts'
import { Journal, type JournalEntry } from './journal.ts'

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'journal-'))
})
afterEach(() => rmSync(dir, { recursive: true }))

const entry = (index: number, sandboxId: string): Omit<JournalEntry, 'version' | 'bootId'> => ({
  occupant: 'sandbox',
  sandboxId,
  snapshotId: 's1',
  engine: 'container',
  slot: { index, netnsPath: '', address: '10.0.0.2', uidBase: 1, cgroupPaths: [], sysfsPath: '' },
  upper: { id: `u${index}`, path: '/u', capMib: 1 },
  layers: [],
  limits: plainLimits,
  initPid: undefined,
  isReady: false,
  startedAtMs: 1,
  endAtMs: 2,
  onEnd: 'kill',
  templateId: 't',
  network: { internet: true },
  config: plainConfig,
  consumesSnapshot: false,
  pauseMemory: true,
})

test('what was written last for a slot is what the next daemon reads', () => {
  const journal = new Journal(dir, 'boot-1')
  journal.write(entry(3, 'pooled'))
  journal.write({ ...entry(3, 'a'), initPid: 42 })
  journal.write(entry(4, 'b'))
  journal.remove(4)
  const { entries, stale } = new Journal(dir, 'boot-1').read()
  expect(entries.map(({ sandboxId, initPid }) => [sandboxId, initPid])).toEqual([['a', 42]])
  expect(stale).toEqual([])
})

test('entries of an earlier boot and torn files are stale, and can be removed', () => {
  new Journal(dir, 'boot-1').write(entry(1, 'old'))
  writeFileSync(join(dir, '2.json'), '{"version":1,"bootId":"boot-2","sand')
  writeFileSync(join(dir, '3.json.new'), '')
  const journal = new Journal(dir, 'boot-2')
  const { entries, stale } = journal.read()
  expect(entries).toEqual([])
  expect([...stale].sort()).toEqual(['1.json', '2.json', '3.json.new'])
  for (const name of stale) journal.removeStale(name)
  expect(readdirSync(dir)).toEqual([])
})

test('a file that is gone when its turn comes is no entry', () => {
  symlinkSync('nowhere', join(dir, '3.json'))
  const journal = new Journal(dir, 'boot-1')
  journal.write(entry(4, 'a'))
  expect(journal.read().entries.map(({ sandboxId }) => sandboxId)).toEqual(['a'])
})

test('removing is idempotent, and files are readable by their owner only', () => {
  const journal = new Journal(dir, 'boot-1')
  journal.write(entry(1, 'a'))
  expect(statSync(join(dir, '1.json')).mode & 0o077).toBe(0)
  journal.remove(1)
  journal.remove(1)
})

test('an entry that cannot be read at the moment is not taken for one of nobody', () => {
  const journal = new Journal(dir, 'boot-1')
  journal.write(entry(1, 'a'))
  mkdirSync(join(dir, '2.json'))
  expect(() => journal.read()).toThrow('EISDIR')
})
