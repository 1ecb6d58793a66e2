import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import koffi from 'koffi'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { DirectoryWatch } from '../filesystem/directory-watch.ts'
import { compile } from '../layer/build.ts'
import { type LaunchSpec, launch } from '../process/launch.ts'
import { UserDatabase } from './users.ts'

const RLIMIT_NOFILE = 7
const libc = koffi.load(null)
const getrlimit = libc.func('int getrlimit(int resource, void *limits)')
const setrlimit = libc.func('int setrlimit(int resource, void *limits)')

let nativeDir: string

beforeAll(async () => {
  nativeDir = mkdtempSync(join(tmpdir(), 'envd-'))
  await compile('launch', join(nativeDir, 'launch'))
  await compile('watch', join(nativeDir, 'watch'))
}, 60_000)

afterAll(() => rmSync(nativeDir, { recursive: true }))

const openDescriptors = (): number[] => readdirSync('/proc/self/fd').map(Number).filter(isOpen)

/** Not the one that the directory itself was read by. */
function isOpen(fd: number): boolean {
  return statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false }) !== undefined
}

/** Calls `act` while this process can open no more than `count` descriptors. */
function withDescriptorsLeft<T>(count: number, act: () => T): T {
  const used = new Set(openDescriptors())
  let limit = 0
  for (let left = count; left > 0 || used.has(limit); limit++) if (!used.has(limit)) left--
  const standing = Buffer.alloc(16)
  getrlimit(RLIMIT_NOFILE, standing)
  const lowered = Buffer.from(standing)
  lowered.writeBigUInt64LE(BigInt(limit), 0)
  setrlimit(RLIMIT_NOFILE, lowered)
  try {
    return act()
  } finally {
    setrlimit(RLIMIT_NOFILE, standing)
  }
}

const spec: LaunchSpec = {
  command: 'true',
  args: [],
  user: { name: 'root', uid: 0, gid: 0, home: '/', groups: [0] },
  cwd: '/',
  env: { PATH: '/usr/bin:/bin' },
  maxProcesses: undefined,
  stdin: true,
}

test.each([
  ['pipes', spec, 8],
  ['no input', { ...spec, stdin: false }, 7],
  ['a terminal', { ...spec, terminal: { cols: 80, rows: 24 } }, 4],
])('a program that finds too few descriptors leaves none open (%s)', async (_name, wanted, enough) => {
  const before = openDescriptors()
  for (let left = 0; left < enough; left++) {
    const launched = withDescriptorsLeft(left, () => launch(wanted, nativeDir))
    await expect(launched).rejects.toThrow('EMFILE')
    expect(openDescriptors()).toEqual(before)
  }
})

test('users that could not be read are not taken for unknown', () => {
  const users = new UserDatabase('/')
  expect(() => withDescriptorsLeft(0, () => users.find('root'))).toThrow('EMFILE')
  expect(users.find('root')?.uid).toBe(0)
})

test('a watch that finds no descriptors fails alone', async () => {
  const failures: Error[] = []
  const watch = withDescriptorsLeft(
    0,
    () =>
      new DirectoryWatch(
        { directory: nativeDir, recursive: false, nativeDir },
        () => {},
        (error) => failures.push(error),
      ),
  )
  await expect(watch.armed).rejects.toThrow('EMFILE')
  expect(failures).toHaveLength(1)
})
