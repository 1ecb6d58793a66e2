import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Code, type ConnectError } from '@connectrpc/connect'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { actingAs, startTestAgent, type TestAgent } from '../testing/test-agent.ts'

let agent: TestAgent
const asUser = actingAs('user')

beforeAll(async () => {
  agent = await startTestAgent()
}, 60_000)

afterAll(() => agent.close())

const failureOf = (call: Promise<unknown>): Promise<[Code, string]> =>
  call.then(
    () => expect.fail('it succeeded'),
    (error: ConnectError) => [error.code, error.rawMessage],
  )

test.each([
  ['/x\0y', 'invalid argument'],
  [`/${'x'.repeat(300)}`, 'file name too long'],
])('a path that cannot be says why to every method: %j', async (path, reason) => {
  const { files } = agent
  const calls: (() => Promise<unknown>)[] = [
    () => files.stat({ path }, asUser),
    () => files.listDir({ path }, asUser),
    () => files.makeDir({ path }, asUser),
    () => files.remove({ path }, asUser),
    () => files.createWatcher({ path }, asUser),
    () => files.move({ source: path, destination: `${agent.home}/moved` }, asUser),
  ]
  for (const call of calls) {
    expect(await failureOf(call())).toEqual([Code.Internal, expect.stringContaining(reason)])
  }
})

test('failures of calls are told in the words of the C library', async () => {
  const path = join(agent.home, 'none')
  const words = `lstat ${path}: no such file or directory`
  expect(await failureOf(agent.files.stat({ path }))).toEqual([Code.NotFound, `file not found: ${words}`])
  expect(await failureOf(agent.files.listDir({ path }))).toEqual([Code.NotFound, `path not found: ${words}`])
})

test('parents that exist keep their owner, also when the path leads back to them', async () => {
  const kept = join(agent.rootDir, 'kept')
  mkdirSync(kept)
  await agent.files.makeDir({ path: `${kept}/new/../made` }, asUser)
  expect(statSync(`${kept}/made`).uid).toBe(1000)
  expect(statSync(kept).uid).toBe(0)
})

test('a link that leads nowhere is no directory', async () => {
  const path = join(agent.home, 'dangling')
  symlinkSync('nowhere', path)
  for (const wanted of [path, join(path, 'below')]) {
    const [code, text] = await failureOf(agent.files.makeDir({ path: wanted }, asUser))
    expect([code, text]).toEqual([Code.Internal, expect.stringContaining('file exists')])
  }
})

test('Remove takes a link and never what it leads to, with a slash behind its name too', async () => {
  const target = join(agent.home, 'target')
  const link = join(agent.home, 'link')
  mkdirSync(target)
  writeFileSync(join(target, 'kept'), '')
  for (const path of [link, `${link}/`]) {
    symlinkSync(target, link)
    await agent.files.remove({ path })
    expect(readdirSync(target)).toEqual(['kept'])
    expect(readdirSync(agent.home)).not.toContain('link')
  }
  const file = join(agent.home, 'file')
  writeFileSync(file, '')
  await agent.files.remove({ path: `${file}/` })
  expect(existsSync(file)).toBe(false)
})

test('names that are not UTF-8 are left out of lists, watched without harm, and removed', async () => {
  const directory = join(agent.home, 'names')
  mkdirSync(directory)
  const { watcherId } = await agent.files.createWatcher({ path: directory })
  execFileSync('bash', ['-c', `mkdir $'a\\xff' && touch $'a\\xff/b\\xfe' plain`], { cwd: directory })
  const { entries } = await agent.files.listDir({ path: directory, depth: 3 })
  expect(entries.map(({ name }) => name)).toEqual(['plain'])
  const seen = async (): Promise<string[]> =>
    (await agent.files.getWatcherEvents({ watcherId })).events.map(({ name }) => name)
  await expect.poll(seen).toContain('plain')
  await agent.files.remove({ path: directory })
  expect(existsSync(directory)).toBe(false)
})

test('the agent answers while a large tree is listed or removed', async () => {
  const tree = join(agent.home, 'tree')
  execFileSync('bash', ['-c', `mkdir -p tree/{1..20} && touch tree/{1..20}/{1..300}`], { cwd: agent.home })
  const list = (): Promise<unknown> => agent.files.listDir({ path: tree, depth: 2 })
  const remove = (): Promise<unknown> => agent.files.remove({ path: tree })
  for (const work of [list, remove]) {
    const order: string[] = []
    await Promise.all([
      work().then(() => order.push('work')),
      fetch(`${agent.baseUrl}/health`).then(() => order.push('health')),
    ])
    expect(order).toEqual(['health', 'work'])
  }
})
