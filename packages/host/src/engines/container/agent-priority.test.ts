import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { getPriority } from 'node:os'
import { afterEach, expect, test } from 'vitest'
import { favourAgent, unfavourAgent } from './agent-priority.ts'

let init: ChildProcess | undefined
afterEach(async () => {
  const exited = init && once(init, 'exit')
  if (init) for (const pid of children()) process.kill(pid, 'SIGKILL')
  init?.kill('SIGKILL')
  await exited
  init = undefined
})

const children = (): number[] =>
  readFileSync(`/proc/${init?.pid}/task/${init?.pid}/children`, 'latin1')
    .split(' ')
    .filter(Boolean)
    .map(Number)

test('init and the agent come before the rest, until a dump', async () => {
  const script = '(exec -a /.e2b/envd.mjs sleep 60) & (exec sleep 60) & echo ready; wait'
  init = spawn('bash', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(init.stdout!, 'data')
  const initPid = init.pid!
  await expect
    .poll(() => children().map((pid) => readFileSync(`/proc/${pid}/comm`, 'latin1')))
    .toEqual(['sleep\n', 'sleep\n'])
  const [agent = 0, other = 0] = children()
  favourAgent(initPid)
  expect([initPid, agent, other].map(getPriority)).toEqual([-20, -20, getPriority()])
  unfavourAgent(initPid)
  expect([initPid, agent, other].map(getPriority)).toEqual([0, 0, getPriority()])
})

test('a sandbox that has ended is no error', () => {
  favourAgent(2 ** 22 + 1)
})
