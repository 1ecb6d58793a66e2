import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startTestAgent, type TestAgent } from '../testing/test-agent.ts'
import { TASK_LIMIT_FILE } from './task-limit.ts'

let agent: TestAgent

beforeAll(async () => {
  agent = await startTestAgent()
}, 60_000)
afterAll(() => agent.close())

test("a kernel of the sandbox's own is told how many processes there may be", async () => {
  const path = join(agent.rootDir, TASK_LIMIT_FILE)
  await agent.post('/init', { maxTasks: 70 })
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, 'max')
  await agent.post('/init', { maxTasks: 71 })
  expect(readFileSync(path, 'utf8')).toMatch(/^71/)
})
