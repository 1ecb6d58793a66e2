import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { memoryInfo } from '@sandbox/contract/meminfo'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startTestAgent, type TestAgent } from '../testing/test-agent.ts'

let agent: TestAgent
let path: string

beforeAll(async () => {
  agent = await startTestAgent()
  mkdirSync(join(agent.rootDir, 'run/e2b'), { recursive: true })
  path = join(agent.rootDir, 'run/e2b/meminfo')
}, 60_000)
afterAll(() => agent.close())

const LIMIT_MIB = 8192
const LIMIT_KIB = LIMIT_MIB * 1024
const value = (name: string): number =>
  Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(readFileSync(path, 'utf8'))?.[1])

test('programs see what the sandbox may use', async () => {
  writeFileSync(path, memoryInfo({ totalKib: 1024, freeKib: 1024 }))
  await agent.post('/init', { memoryMib: LIMIT_MIB })
  expect(value('MemTotal')).toBe(LIMIT_KIB)
  expect(value('MemAvailable')).toBeLessThan(LIMIT_KIB)
})

test('a clone whose limit is that of its snapshot writes nothing when it is started', async () => {
  writeFileSync(path, memoryInfo({ totalKib: LIMIT_KIB, freeKib: 1 }))
  await agent.post('/init', { memoryMib: LIMIT_MIB })
  expect(value('MemFree')).toBe(1)
})

test('what is used is as of the start of the last process', async () => {
  writeFileSync(path, memoryInfo({ totalKib: LIMIT_KIB, freeKib: LIMIT_KIB }))
  for await (const _ of agent.processes.start({ process: { cmd: '/bin/true' } })) {
    // It only has to start.
  }
  const own = process.memoryUsage().rss / 2 ** 10 / 2
  expect(LIMIT_KIB - value('MemAvailable')).toBeGreaterThan(own)
})

test('a full disk keeps nobody from starting a process', async () => {
  rmSync(path)
  symlinkSync('/dev/full', path)
  const kinds: (string | undefined)[] = []
  for await (const { event } of agent.processes.start({ process: { cmd: '/bin/true' } }))
    kinds.push(event?.event.case)
  expect(kinds.at(-1)).toBe('end')
})
