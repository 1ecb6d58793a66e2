import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Code, type ConnectError } from '@connectrpc/connect'
import { EventType, FileType } from '@sandbox/contract/gen/filesystem/filesystem_pb'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { actingAs, startTestAgent, type TestAgent } from '../testing/test-agent.ts'

let agent: TestAgent
let dir: string

beforeAll(async () => {
  agent = await startTestAgent()
  dir = join(agent.rootDir, 'work')
}, 60_000)

afterAll(() => agent.close())

beforeEach(() => {
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir)
})

const codeOf = async (action: Promise<unknown>): Promise<Code | undefined> => {
  try {
    await action
    return undefined
  } catch (error) {
    return (error as ConnectError).code
  }
}

test('Stat shows the file as Go writes it', async () => {
  writeFileSync(join(dir, 'a.txt'), 'hello', { mode: 0o644 })
  const { entry } = await agent.files.stat({ path: join(dir, 'a.txt') })
  expect(entry).toMatchObject({
    name: 'a.txt',
    type: FileType.FILE,
    size: 5n,
    mode: 0o644,
    permissions: '-rw-r--r--',
    owner: 'root',
    group: 'root',
    isSymlink: false,
  })
  expect(Math.abs(Number(entry?.modifiedTime?.seconds) - Date.now() / 1000)).toBeLessThan(60)
  expect(await codeOf(agent.files.stat({ path: join(dir, 'none') }))).toBe(Code.NotFound)
})

test('times are exact, also before 1970, and the root has a name', async () => {
  const path = join(agent.home, 'dated')
  writeFileSync(path, '')
  const timeOf = async (date: string): Promise<string> => {
    execFileSync('touch', ['-d', date, path])
    const { entry } = await agent.files.stat({ path })
    return `${entry?.modifiedTime?.seconds}.${entry?.modifiedTime?.nanos}`
  }
  expect(await timeOf('@1700000000.123456789')).toBe('1700000000.123456789')
  expect(await timeOf('@-2.250000000')).toBe('-3.750000000')
  expect(await timeOf('@0')).toBe('undefined.undefined')
  expect((await agent.files.stat({ path: '/' })).entry).toMatchObject({ name: '/', path: '/' })
})

test('a path below the home directory is shown without a slash at its end', async () => {
  const shown = async (path: string) => (await agent.files.stat({ path }, actingAs('user'))).entry?.path
  expect(await shown('~/')).toBe(agent.home)
  expect(await shown('~')).toBe(agent.home)
})

test('a directory never has size 0, also where the file system counts none', async () => {
  const { entry } = await agent.files.stat({ path: '/proc/sys' })
  expect(entry?.type).toBe(FileType.DIRECTORY)
  expect(entry?.size).toBeGreaterThan(0n)
})

test('a link has the type and mode of its target, its own permissions and the resolved path', async () => {
  mkdirSync(join(dir, 'target'), { mode: 0o755 })
  symlinkSync('target', join(dir, 'link'))
  symlinkSync('nowhere', join(dir, 'broken'))
  const { entry } = await agent.files.stat({ path: join(dir, 'link') })
  expect(entry).toMatchObject({
    type: FileType.DIRECTORY,
    mode: 0o755,
    permissions: 'Lrwxrwxrwx',
    symlinkTarget: join(dir, 'target'),
    isSymlink: true,
  })
  const broken = await agent.files.stat({ path: join(dir, 'broken') })
  expect(broken.entry).toMatchObject({ type: FileType.UNSPECIFIED, isSymlink: true })
})

test('MakeDir makes parents for the user and refuses what exists', async () => {
  const made = await agent.files.makeDir({ path: '~/x/y' }, actingAs('user'))
  expect(made.entry).toMatchObject({ path: join(agent.home, 'x/y'), owner: 'user', mode: 0o755 })
  expect(await codeOf(agent.files.makeDir({ path: 'x' }, actingAs('user')))).toBe(Code.AlreadyExists)
  writeFileSync(join(dir, 'file'), '')
  expect(await codeOf(agent.files.makeDir({ path: join(dir, 'file') }))).toBe(Code.InvalidArgument)
})

test('Move makes parents, replaces, and misses what is not there', async () => {
  writeFileSync(join(dir, 'a'), 'new')
  writeFileSync(join(dir, 'b'), 'old')
  await agent.files.move({ source: join(dir, 'a'), destination: join(dir, 'b') })
  expect(readFileSync(join(dir, 'b'), 'utf8')).toBe('new')
  const moved = await agent.files.move({ source: join(dir, 'b'), destination: join(dir, 'p/q/c') })
  expect(moved.entry?.path).toBe(join(dir, 'p/q/c'))
  const missing = agent.files.move({ source: join(dir, 'none'), destination: join(dir, 'd') })
  expect(await codeOf(missing)).toBe(Code.NotFound)
})

test('Remove is recursive and silent about what is missing', async () => {
  mkdirSync(join(dir, 'tree/deep'), { recursive: true })
  await agent.files.remove({ path: join(dir, 'tree') })
  await agent.files.remove({ path: join(dir, 'tree') })
  expect(existsSync(join(dir, 'tree'))).toBe(false)
})

test('ListDir: order, depth, linked root, errors', async () => {
  mkdirSync(join(dir, 'b/inner'), { recursive: true })
  for (const name of ['a', 'b/1', 'b/inner/2', 'c']) writeFileSync(join(dir, name), '')
  symlinkSync(dir, join(agent.rootDir, 'linked'))
  symlinkSync('loop', join(dir, 'loop'))
  const names = async (path: string, depth: number) =>
    (await agent.files.listDir({ path, depth })).entries.map((entry) => entry.path.slice(path.length + 1))
  expect(await names(dir, 0)).toEqual(['a', 'b', 'c', 'loop'])
  expect(await names(dir, 2)).toEqual(['a', 'b', 'b/1', 'b/inner', 'c', 'loop'])
  expect(await names(join(agent.rootDir, 'linked'), 3)).toContain('b/inner/2')
  expect(await codeOf(agent.files.listDir({ path: join(dir, 'none') }))).toBe(Code.NotFound)
  expect(await codeOf(agent.files.listDir({ path: join(dir, 'a') }))).toBe(Code.InvalidArgument)
  expect(await codeOf(agent.files.listDir({ path: join(dir, 'loop') }))).toBe(Code.FailedPrecondition)
})

test('WatchDir: start, then every change, also in new nested directories', async () => {
  const abort = new AbortController()
  const seen: string[] = []
  const entries: string[] = []
  const stream = agent.files.watchDir(
    { path: dir, recursive: true, includeEntry: true },
    { signal: abort.signal },
  )
  const reading = (async () => {
    for await (const { event } of stream) {
      if (event.case === 'start') mkdirSync(join(dir, 'n/m'), { recursive: true })
      if (event.case !== 'filesystem') continue
      if (event.value.type === EventType.CREATE && event.value.name === 'n/m') {
        writeFileSync(join(dir, 'n/m/f'), 'x')
        rmSync(join(dir, 'n/m/f'))
      }
      seen.push(`${EventType[event.value.type]} ${event.value.name}`)
      if (event.value.entry) entries.push(event.value.name)
      if (event.value.type === EventType.REMOVE) return
    }
  })()
  await reading
  abort.abort()
  expect(seen).toContain('CREATE n')
  expect(seen).toContain('CREATE n/m')
  expect(seen.at(-1)).toBe('REMOVE n/m/f')
  expect(entries).toContain('n')
  expect(new Set(seen.filter((line) => line.startsWith('CREATE'))).size).toBe(
    seen.filter((line) => line.startsWith('CREATE')).length,
  )
})

test('watches are released for a capture and see changes again after it', async () => {
  const { watcherId } = await agent.files.createWatcher({ path: dir })
  expect((await agent.post('/freeze', {})).status).toBe(204)
  writeFileSync(join(dir, 'unseen'), 'x')
  expect((await agent.files.getWatcherEvents({ watcherId })).events).toEqual([])
  expect((await agent.post('/unfreeze', {})).status).toBe(204)
  let names: string[] = []
  await expect
    .poll(async () => {
      writeFileSync(join(dir, 'seen'), 'x')
      names = (await agent.files.getWatcherEvents({ watcherId })).events.map((event) => event.name)
      return names
    })
    .toContain('seen')
  expect(names).not.toContain('unseen')
  await agent.files.removeWatcher({ watcherId })
})

test('polled watchers: create, drain, remove, errors', async () => {
  const { watcherId } = await agent.files.createWatcher({ path: dir })
  writeFileSync(join(dir, 'file'), 'x')
  mkdirSync(join(dir, 'sub'))
  writeFileSync(join(dir, 'sub/unseen'), 'x')
  const seen: string[] = []
  await expect
    .poll(async () => {
      const { events } = await agent.files.getWatcherEvents({ watcherId })
      seen.push(...events.map((event) => `${EventType[event.type]} ${event.name}`))
      return seen
    })
    .toEqual(['CREATE file', 'WRITE file', 'CREATE sub'])
  expect((await agent.files.getWatcherEvents({ watcherId })).events).toEqual([])
  await agent.files.removeWatcher({ watcherId })
  expect(await codeOf(agent.files.getWatcherEvents({ watcherId }))).toBe(Code.NotFound)
  expect(await codeOf(agent.files.createWatcher({ path: join(dir, 'none') }))).toBe(Code.NotFound)
  expect(await codeOf(agent.files.createWatcher({ path: join(dir, 'file') }))).toBe(Code.InvalidArgument)
})
