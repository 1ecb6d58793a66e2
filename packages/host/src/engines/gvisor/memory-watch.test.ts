import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { CgroupRoot } from '../../linux/cgroup-root.ts'
import { MemoryWatch } from './memory-watch.ts'

const LIMIT_MIB = 64
const root = new CgroupRoot({ instance: `mwt${process.pid}` })
const cgroup = root.cgroup('sandbox')
const dir = mkdtempSync(join(tmpdir(), 'memory-watch-'))
const killsFile = join(dir, 'kills')
let greedy: ChildProcess | undefined

beforeAll(() => {
  root.prepare()
  cgroup.create()
  cgroup.setLimits({ memoryMib: 4 * LIMIT_MIB, pids: 20, cpuCount: 1 })
})
afterAll(async () => {
  await root.remove()
  rmSync(dir, { recursive: true, force: true })
})

/** Takes memory in steps, up to twice the limit, and waits. */
async function takeMemory(): Promise<ChildProcess> {
  const program = `
import mmap, sys, time
sys.stdin.read(1)
held = []
for _ in range(${LIMIT_MIB / 4}):
    block = mmap.mmap(-1, 8 << 20)
    block.write(b'x' * (8 << 20))
    held.append(block)
    time.sleep(0.01)
time.sleep(60)`
  const child = spawn('python3', ['-c', program], { stdio: ['pipe', 'ignore', 'ignore'] })
  await once(child, 'spawn')
  cgroup.add(child.pid!)
  child.stdin!.write('x')
  return child
}

function watchWith(relieve: () => Promise<unknown>): MemoryWatch {
  const watch = new MemoryWatch({ cgroup, limitMib: LIMIT_MIB, kernelPid: process.pid, killsFile, relieve })
  watch.start()
  return watch
}

test('past the limit a process is ended, counted, and the count outlives the daemon', async () => {
  const watch = watchWith(async () => greedy?.kill('SIGKILL'))
  greedy = await takeMemory()
  expect(await once(greedy, 'exit')).toEqual([null, 'SIGKILL'])
  await expect.poll(() => watch.kills).toBe(1)
  watch.stop()
  expect(readFileSync(killsFile, 'utf8')).toBe('1')
  expect(
    new MemoryWatch({ cgroup, limitMib: 1, kernelPid: 0, killsFile, relieve: async () => {} }).kills,
  ).toBe(1)
})

test('what takes memory stands still until something is ended, and what frees nothing is no kill', async () => {
  rmSync(killsFile)
  let seenStopped = false
  let asked = 0
  const watch = watchWith(async () => {
    asked++
    seenStopped ||= /^State:\s+T/m.test(readFileSync(`/proc/${greedy!.pid}/status`, 'utf8'))
  })
  greedy = await takeMemory()
  await expect.poll(() => seenStopped && asked > 1, { timeout: 10_000 }).toBe(true)
  watch.stop()
  expect(watch.kills).toBe(0)
  expect(existsSync(killsFile)).toBe(false)
  await expect
    .poll(() => /^State:\s+T/m.test(readFileSync(`/proc/${greedy!.pid}/status`, 'utf8')))
    .toBe(false)
  greedy.kill('SIGKILL')
  await once(greedy, 'exit')
}, 20_000)

test('what lies in files and can be read again is not held', async () => {
  const before = cgroup.heldMemoryBytes(0)
  const child = spawn('sh', ['-c', `read x; dd if=/dev/zero of=${dir}/big bs=1M count=48; sync`], {
    stdio: ['pipe', 'ignore', 'ignore'],
  })
  await once(child, 'spawn')
  cgroup.add(child.pid!)
  child.stdin!.write('x\n')
  await once(child, 'exit')
  expect(cgroup.usage().memoryBytes).toBeGreaterThan(32 * 2 ** 20)
  expect(cgroup.heldMemoryBytes(0) - before).toBeLessThan(24 * 2 ** 20)
})
