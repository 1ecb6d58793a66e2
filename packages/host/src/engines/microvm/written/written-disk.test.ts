import { closeSync, openSync, readdirSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Instance } from '../../engine.ts'
import { diskPath } from '../disk.ts'
import { inGuest, MachineFixture } from '../machine-fixture.ts'
import type { MicrovmEngine } from '../microvm-engine.ts'
import { listTree } from './tree-listing.ts'

/** Guests are emulated here: everything takes tens of times as long as on a processor of their own. */
const SETUP_TIMEOUT_MS = 300_000
const TEST_TIMEOUT_MS = 300_000

let fixture: MachineFixture
let engine: MicrovmEngine

beforeAll(async () => {
  fixture = await MachineFixture.make('mvmw', '10.46.0.0/24')
  engine = fixture.engine()
}, SETUP_TIMEOUT_MS)

afterAll(() => fixture.remove(), SETUP_TIMEOUT_MS)

const timed = (name: string, body: () => Promise<void>): void => test(name, body, TEST_TIMEOUT_MS)

/** A machine that has run a program and was stopped. Its shell has no programs beside it. */
async function stopped(program: string): Promise<Instance> {
  const instance = await engine.start(await fixture.plan(0))
  expect(
    await inGuest(instance, '/bin/node', '-e', `${program}; fs.fsyncSync(fs.openSync('/written', 'a'))`),
  ).toBe('')
  await engine.stop(instance)
  return instance
}

/** Nothing of a machine or of its stream is left. */
function expectClear({ upper, slot }: Instance): void {
  expect(readdirSync(upper.path).sort()).toEqual(['monitor.log', 'upper', 'work'])
  expect(readdirSync(join(fixture.parts.runDir, 'slots', String(slot.index)))).toEqual(['sys'])
}

timed('what a machine wrote lies in its upper afterwards, as overlay has it', async () => {
  const instance = await stopped(`
    fs.mkdirSync('/made'); fs.writeFileSync('/made/file', 'text'); fs.chownSync('/made/file', 1000, 1001)
    fs.chmodSync('/made/file', 0o4751); fs.linkSync('/made/file', '/made/hard'); fs.symlinkSync('file', '/made/link')
    fs.truncateSync('/made/file', 5e6); fs.utimesSync('/made/file', 1, 1); fs.rmSync('/guest.mjs')
  `)
  await engine.layOutWritten(instance)
  const files = new Map(listTree(join(instance.upper.path, 'upper')).map((file) => [file.path, file]))
  const file = files.get('made/file')
  expect(file?.facts).toMatch(/^104751 1000 1001 2 names 5000000 /)
  expect(file?.mtimeNs).toBe(1_000_000_000n)
  expect(files.get('made/hard')?.inode).toBe(file?.inode)
  expect(files.get('made/link')?.facts).toMatch(/ file$/)
  expect(files.get('guest.mjs')?.facts).toMatch(/^20[0-7]{3,4} 0 0 /)
  expectClear(instance)
})

timed('a disk that is no file system any more is refused, and says so', async () => {
  const broken = await stopped('0')
  const fd = openSync(diskPath(broken.upper.path), 'r+')
  writeSync(fd, Buffer.alloc(65_536, 'x'))
  closeSync(fd)
  await expect(engine.layOutWritten(broken)).rejects.toThrow(/cannot be a layer: mount \/d: Invalid argument/)
  expectClear(broken)
})
