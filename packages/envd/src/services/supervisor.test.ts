import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { compile } from '../layer/build.ts'
import { AgentState } from '../state.ts'
import { ServiceSupervisor } from './supervisor.ts'

let rootDir: string
let supervisor: ServiceSupervisor
const logged: Record<string, unknown>[] = []

beforeAll(async () => {
  rootDir = mkdtempSync(join(tmpdir(), 'envd-'))
  mkdirSync(join(rootDir, 'etc/e2b'), { recursive: true })
  mkdirSync(join(rootDir, 'root'))
  writeFileSync(join(rootDir, 'etc/passwd'), `root:x:0:0::${join(rootDir, 'root')}:/bin/sh\n`)
  await compile('launch', join(rootDir, 'launch'))
  supervisor = newSupervisor()
}, 60_000)

afterAll(() => {
  supervisor.close()
  rmSync(rootDir, { recursive: true, force: true })
})

function newSupervisor(): ServiceSupervisor {
  return new ServiceSupervisor({
    state: new AgentState({ rootDir, defaultUser: 'root' }),
    rootDir,
    nativeDir: rootDir,
    path: '/usr/bin:/bin',
    log: (event) => logged.push(event),
  })
}

const services = (list: unknown): void =>
  writeFileSync(join(rootDir, 'etc/e2b/services.json'), JSON.stringify({ services: list }))

const pidOf = (name: string): number => {
  try {
    return Number(readFileSync(join(rootDir, `run/e2b/services/${name}.pid`), 'utf8').split(' ')[0])
  } catch {
    return 0
  }
}

const isRunning = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

test('a killed service and the one that is part of it come back', async () => {
  services([
    { name: 'main', cmd: ['/bin/sleep', '1000'] },
    { name: 'part', cmd: 'echo up; exec sleep 1000', partOf: 'main', env: { A: 'b' } },
  ])
  await supervisor.load()
  const before = [pidOf('main'), pidOf('part')]
  expect(before.every(isRunning)).toBe(true)
  process.kill(before[0] ?? 0, 'SIGKILL')
  await expect
    .poll(() => [pidOf('main'), pidOf('part')].every((pid) => !before.includes(pid) && isRunning(pid)), {
      timeout: 5000,
    })
    .toBe(true)
  expect(readFileSync(join(rootDir, 'run/e2b/services/part.log'), 'utf8')).toBe('up\n')
})

test('loading again starts only what is new', async () => {
  const before = pidOf('main')
  services([
    { name: 'main', cmd: ['/bin/sleep', '1000'] },
    { name: 'third', cmd: ['/bin/sleep', '1000'] },
  ])
  await supervisor.load()
  expect(pidOf('main')).toBe(before)
  expect(isRunning(pidOf('third'))).toBe(true)
  process.kill(before, 'SIGKILL')
  await expect.poll(() => pidOf('main') !== before && isRunning(pidOf('main')), { timeout: 5000 }).toBe(true)
})

test('a new agent replaces what the one before left running', async () => {
  const leftover = pidOf('third')
  const next = newSupervisor()
  await next.load()
  expect(pidOf('third')).not.toBe(leftover)
  await expect.poll(() => isRunning(leftover)).toBe(false)
  next.close()
})

test('a service whose pid cannot be written down is running, and is started once', async () => {
  mkdirSync(join(rootDir, 'run/e2b/services/unwritten.pid'))
  services([
    { name: 'unwritten', cmd: ['/bin/sleep', '1000'] },
    { name: 'later', cmd: ['/bin/sleep', '0.1'] },
  ])
  await supervisor.load()
  const startsOf = (name: string): number =>
    logged.filter(({ event, service }) => event === 'service_start' && service === name).length
  await expect.poll(() => startsOf('later'), { timeout: 10_000 }).toBe(3)
  expect(startsOf('unwritten')).toBe(1)
})

test('a wrong service file is logged and changes nothing', async () => {
  services([{ name: 'Bad Name', cmd: 'true' }])
  await supervisor.load()
  expect(logged.at(-1)?.event).toBe('service_file_invalid')
})
