import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { Cgroup } from './cgroup.ts'
import { CgroupRoot, detectCgroups } from './cgroup-root.ts'
import { CgroupV2 } from './cgroup-v2.ts'
import { mountTable, parseMountTable } from './mount-table.ts'

const instance = `tst${process.pid}`
const root = new CgroupRoot({ instance })
const limits = { memoryMib: 64, pids: 20, cpuCount: 0.5 }

beforeAll(() => root.prepare())
afterAll(async () => {
  await root.remove()
  for (const path of root.cgroup('x').paths) expect(existsSync(join(path, '..'))).toBe(false)
})

/** Starts a program that waits for one byte on stdin, so that it can be moved into a group first. */
function held(script: string): ChildProcess {
  return spawn('python3', ['-c', `import sys,os,time\nsys.stdin.buffer.read(1)\n${script}`], {
    stdio: ['pipe', 'pipe', 'ignore'],
  })
}

async function inGroup(group: Cgroup, script: string): Promise<{ status: number | null; output: string }> {
  const child = held(script)
  group.add(child.pid!)
  let output = ''
  child.stdout!.on('data', (chunk: Buffer) => {
    output += chunk.toString()
  })
  child.stdin!.write('x')
  const [status] = await once(child, 'close')
  return { status, output }
}

async function sleeper(group: Cgroup): Promise<ChildProcess> {
  const child = held('os.fork(); os.fork()\nprint(1, flush=True)\ntime.sleep(60)')
  group.add(child.pid!)
  child.stdin!.write('x')
  await once(child.stdout!, 'data')
  return child
}

describe('limits', () => {
  const group = root.cgroup('limits')
  beforeAll(() => {
    group.create()
    group.setLimits(limits)
  })

  test('memory above the limit is killed and counted', async () => {
    const { status } = await inGroup(group, "x = b'x' * (200 << 20)")
    expect(status).not.toBe(0)
    expect(group.usage().oomKills).toBe(1)
  })

  test('a raised limit lets the same program pass', async () => {
    group.setLimits({ ...limits, memoryMib: 512 })
    expect((await inGroup(group, "x = b'x' * (200 << 20)")).status).toBe(0)
    group.setLimits(limits)
  })

  test('forks stop at the pids limit', async () => {
    const script =
      'n=0\ntry:\n while True:\n  p=os.fork()\n  if p==0: time.sleep(9)\n  n+=1\nexcept OSError: print(n)\nos.kill(0,9)'
    const child = spawn('python3', [
      '-c',
      `import sys,os,time\nos.setsid()\nsys.stdin.buffer.read(1)\n${script}`,
    ])
    group.add(child.pid!)
    child.stdin.write('x')
    child.stdout.resume()
    await once(child, 'close')
    expect(
      readFileSync(
        `${group.paths.find((path) => path.includes('pids')) ?? group.paths[0]}/pids.events`,
        'utf8',
      ),
    ).toMatch(/max [1-9]/)
    await group.killAll()
  })

  test('half a cpu gets half the time', async () => {
    const before = group.usage().cpuUsec
    const { output } = await inGroup(
      group,
      't=time.monotonic()\nwhile time.monotonic()-t<0.6: pass\nprint(time.process_time())',
    )
    expect(Number(output)).toBeLessThan(0.45)
    expect(group.usage().cpuUsec).toBeGreaterThan(before + 100_000)
  })
})

describe('the group as a whole', () => {
  test('freezes, thaws, is killed while frozen, and counts from zero when made again', async () => {
    const group = root.cgroup('whole')
    group.create()
    group.setLimits(limits)
    const child = await sleeper(group)
    // Its children start while the group is looked at.
    await expect.poll(() => group.usage().pids).toBe(4)
    await group.freeze()
    group.thaw()
    await group.freeze()
    const exited = once(child, 'exit')
    await group.killAll()
    await exited
    expect(group.pids()).toEqual([])
    await group.remove()
    group.create()
    expect(group.usage()).toMatchObject({ cpuUsec: 0, pids: 0, oomKills: 0 })
    await group.remove()
    await group.remove()
  })

  test('remove takes running processes and groups below along', async () => {
    const group = root.cgroup('nested')
    group.create()
    const below = root.cgroup('nested/below')
    below.create()
    const exited = once(await sleeper(below), 'exit')
    expect(root.list()).toContain('nested')
    await group.remove()
    await exited
    expect(root.list()).not.toContain('nested')
  })
})

const unified = mountTable().find((entry) => entry.fileSystem === 'cgroup2')?.target

test.runIf(unified)('v2 freeze, kill and remove work without controllers', async () => {
  const group = new CgroupV2(join(unified!, `${instance}-v2`))
  group.create()
  const child = await sleeper(group)
  await group.freeze()
  expect(readFileSync(join(group.paths[0]!, 'cgroup.events'), 'utf8')).toContain('frozen 1')
  const exited = once(child, 'exit')
  await group.killAll()
  await exited
  await group.remove()
  expect(existsSync(group.paths[0]!)).toBe(false)
})

test('v2 writes and reads the files of the kernel interface', () => {
  const dir = mkdtempSync(join(tmpdir(), 'cgroup2-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const files = {
    'memory.max': 'max',
    'memory.high': 'max',
    'memory.swap.max': 'max',
    'pids.max': 'max',
    'cpu.max': 'max 100000',
    'cpu.weight': '100',
    'cpu.stat': 'usage_usec 1500\nuser_usec 1000\n',
    'memory.current': '4096\n',
    'memory.stat': 'anon 1\nfile 2048\ninactive_file 1000\nactive_file 24\n',
    'pids.current': '3\n',
    'memory.events': 'oom 2\noom_kill 1\n',
  }
  for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), content)
  const group = new CgroupV2(dir)
  group.setLimits({ memoryMib: 1, pids: 9, cpuCount: 1.5, cpuWeight: 50 })
  const written = (name: string): string => readFileSync(join(dir, name), 'utf8')
  expect(written('cpu.max')).toMatch(/^150000 100000/)
  expect(written('memory.max')).toBe('1048576')
  expect(group.heldMemoryBytes(8192)).toBe(4096)
  expect(group.heldMemoryBytes(4096)).toBe(3072)
  expect(written('pids.max')).toMatch(/^9/)
  expect(group.usage()).toEqual({
    cpuUsec: 1500,
    memoryBytes: 4096,
    memoryCacheBytes: 2048,
    pids: 3,
    oomKills: 1,
  })
  group.setLimits({ memoryMib: 2, memorySlowMib: 1, pids: 9, cpuCount: 1 })
  expect(written('memory.high')).toBe('1048576')
  group.setLimits({ memoryMib: 2, pids: 9, cpuCount: 1 })
  expect(written('memory.high')).toMatch(/^max/)
})

test('detection takes v2 when it has the controllers, and co-mounted v1 otherwise', () => {
  const dir = mkdtempSync(join(tmpdir(), 'layout-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  mkdirSync(join(dir, 'unified'))
  const line = (target: string, type: string, options: string): string =>
    `1 1 0:1 / ${target} rw - ${type} none rw,${options}\n`
  const text =
    line(join(dir, 'unified'), 'cgroup2', 'nsdelegate') +
    line('/cg/cpu,cpuacct', 'cgroup', 'cpu,cpuacct') +
    ['memory', 'pids', 'freezer'].map((name) => line(`/cg/${name}`, 'cgroup', name)).join('')
  writeFileSync(join(dir, 'unified', 'cgroup.controllers'), 'hugetlb\n')
  expect(detectCgroups(parseMountTable(text))).toMatchObject({ version: 1, cpu: '/cg/cpu,cpuacct' })
  writeFileSync(join(dir, 'unified', 'cgroup.controllers'), 'cpuset cpu io memory hugetlb pids\n')
  expect(detectCgroups(parseMountTable(text))).toEqual({ version: 2, root: join(dir, 'unified') })
  expect(() => detectCgroups([])).toThrow('no usable cgroups')
})
