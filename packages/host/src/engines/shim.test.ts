import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildShim } from '../../native/build.ts'
import { Shim } from './shim.ts'

const dir = mkdtempSync(join(tmpdir(), 'shim-'))
let shimPath: string

beforeAll(async () => {
  shimPath = await buildShim({ outDir: dir })
})

afterAll(() => rmSync(dir, { recursive: true }))

const sandbox = {
  pidFile: join(dir, 'pid'),
  startedFile: join(dir, 'started'),
  exitFile: join(dir, 'exit'),
}

test('of a program that fails nothing is left, also what its children have started in sessions of their own', async () => {
  const shim = new Shim(shimPath)
  const family = `setsid sh -c 'sleep 997 & echo $! > ${dir}/grandchild; sleep 997' & `
  const wait = `while [ ! -s ${dir}/grandchild ]; do sleep 0.01; done; exit 3`
  const started = shim.start({ sandbox, program: ['/bin/sh', '-c', family + wait] })
  await expect(started).rejects.toThrow('status 3')
  await shim.ended()
  expect(existsSync(`/proc/${readFileSync(join(dir, 'grandchild'), 'utf8').trim()}`)).toBe(false)
})

test('a program that cannot be executed is said to be, and nothing is left of it', async () => {
  const shim = new Shim(shimPath)
  await expect(shim.start({ sandbox, program: ['/no/program'] })).rejects.toThrow(
    'exec /no/program: No such file or directory',
  )
  await shim.ended()
  expect(existsSync(sandbox.startedFile)).toBe(false)
})

test('log and listening socket are there for a program that cannot see where they lie', async () => {
  const shim = new Shim(shimPath)
  const [logPath, listenPath] = [join(dir, 'log'), join(dir, 'socket')]
  const program = ['/bin/sh', '-c', `ls ${dir}; readlink /proc/self/fd/9; ls /proc/self/fd`]
  mkdirSync(join(dir, 'empty'))
  const binds = [{ from: join(dir, 'empty'), to: dir }]
  expect(await shim.run({ program, logPath, listenPath, binds })).toBe(0)
  const said = readFileSync(logPath, 'utf8')
  expect(said).toMatch(/socket:\[\d+\]/)
  expect(said).not.toContain('log\n')
  // Besides these three and the socket only the one with which `ls` reads the directory.
  expect(said.trim().split('\n').slice(-5)).toEqual(['0', '1', '2', '3', '9'])
})

test('a program in a root of its own has what is bound there, and holds no other mount of this machine', async () => {
  const shim = new Shim(shimPath)
  const [root, logPath] = [join(dir, 'root'), join(dir, 'root-log')]
  for (const name of ['', 'dev']) mkdirSync(join(root, name))
  const hold = join(root, 'hold')
  for (const path of [hold, join(root, 'dev/null')]) writeFileSync(path, '')
  const binds = [
    { from: shimPath, to: hold },
    { from: '/dev/null', to: join(root, 'dev/null') },
  ]
  const program = ['/hold', 'hold']
  const { pid } = await shim.start({
    root,
    binds,
    logPath,
    sandbox: { ...sandbox, pidFile: undefined },
    program,
  })
  const mounts = readFileSync(`/proc/${pid}/mountinfo`, 'utf8').trimEnd().split('\n')
  const places = new Set(mounts.map((line) => line.split(' ')[4]!.split('/')[1]))
  process.kill(pid, 'SIGKILL')
  await shim.ended()
  expect([...places].sort()).toEqual(['', 'dev', 'hold'])
})
