import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { run } from '../../../linux/process.ts'
import { buildCriu, type CriuBuild } from './build.ts'

const cacheDir = resolve(import.meta.dirname, '../../../../../../node_modules/.cache/criu')
const dir = mkdtempSync(join(tmpdir(), 'criu-'))
const listPath = join(dir, 'cow-images')
const ownFile = join(dir, 'pages-1.img')
const buildTimeoutMs = 300_000
let build: CriuBuild
let pid: number

/** Counts in a file; holds 16 MiB, and a private mapping of a file named as page images are. */
const program = `
import mmap, os, time
if os.fork():
    os._exit(0)
os.setsid()
held = bytearray(b'h' * (16 << 20))
own = open('${ownFile}', 'r+b')
mapped = mmap.mmap(own.fileno(), 0, flags=mmap.MAP_PRIVATE)
mapped[0:5] = b'mine!'
count = 0
while True:
    count += 1
    held[count * 4096] = count % 251
    right = all(held[n * 4096] == n % 251 for n in range(1, count + 1)) and held.count(b'h') == len(held) - count + sum(n % 251 == 104 for n in range(1, count + 1))
    with open('${dir}/state.new', 'w') as f:
        f.write(f'{count} {right} {mapped[0:5].decode()} {mapped[8192:8197].decode()}')
    os.rename('${dir}/state.new', '${dir}/state')
    time.sleep(0.02)
`

beforeAll(async () => {
  build = await buildCriu({ cacheDir, outDir: cacheDir })
}, buildTimeoutMs)

afterEach(() => {
  if (pid > 0) process.kill(pid, 'SIGKILL')
  pid = 0
  rmSync(listPath, { force: true })
})

afterAll(() => rmSync(dir, { recursive: true, force: true }))

async function start(): Promise<void> {
  writeFileSync(ownFile, 'file!'.padEnd(8192, '.') + 'below'.padEnd(8192, '.'))
  rmSync(join(dir, 'state'), { force: true })
  // It forks and the parent ends: the child belongs to init, as a sandbox does not belong to the daemon.
  const parent = spawn('python3', ['-c', program], { stdio: 'ignore', cwd: '/' })
  await once(parent, 'exit')
  await counting(0)
  pid = Number(execFileSync('pgrep', ['-n', '-f', join(dir, 'state.new')], { encoding: 'utf8' }))
}

function state(): { count: number; rest: string } {
  const [count, ...rest] = readFileSync(join(dir, 'state'), 'utf8').split(' ')
  return { count: Number(count), rest: rest.join(' ') }
}

/** Waits until the program has counted beyond `from`. */
async function counting(from: number): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!statSync(join(dir, 'state'), { throwIfNoEntry: false }) || state().count <= from) {
    if (Date.now() > deadline) throw new Error('the program does not go on')
    await wait(10)
  }
}

/** A restore needs the same pid: init may take a moment to reap the dumped process. */
async function reaped(): Promise<void> {
  const deadline = Date.now() + 10_000
  while (existsSync(`/proc/${pid}`)) {
    if (Date.now() > deadline) throw new Error(`nobody reaps process ${pid}`)
    await wait(5)
  }
}

async function criu(
  verb: 'dump' | 'restore',
  images: string,
  environment: Record<string, string>,
): Promise<void> {
  mkdirSync(images, { recursive: true })
  const where = ['-D', images, '-o', 'log', '-v0']
  const how = verb === 'dump' ? ['-t', String(pid)] : ['--restore-detached', '--pidfile', join(images, 'pid')]
  await run(build.path, [verb, ...where, ...how], {
    env: { PATH: process.env.PATH ?? '', ...environment },
  })
  if (verb === 'dump') await reaped()
  pid = verb === 'dump' ? 0 : Number(readFileSync(join(images, 'pid'), 'utf8'))
}

function mapsOf(path: string): number {
  const lines = readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')
  return lines.filter((line) => line.endsWith(path)).length
}

test('memory is mapped at restore, and a restored process can be dumped and restored again', async () => {
  await start()
  let images = join(dir, 'first')
  for (const next of ['second', undefined]) {
    await criu('dump', images, { CRIU_COW_IMAGES: listPath })
    const { count } = state()
    await criu('restore', images, { CRIU_COW_IMAGES: listPath })
    expect(mapsOf(`${images}/pages-1.img`)).toBeGreaterThan(0)
    await counting(count + 5)
    expect(state().rest).toBe('True mine! below')
    images = join(dir, next ?? '')
  }
})

test("a guest's own file with the name of a page image stays a file", async () => {
  await start()
  for (const images of [join(dir, 'own-1'), join(dir, 'own-2')]) {
    await criu('dump', images, { CRIU_COW_IMAGES: listPath })
    await criu('restore', images, { CRIU_COW_IMAGES: listPath })
    await counting(state().count)
  }
  expect(mapsOf(ownFile)).toBeGreaterThan(0)
  expect(state().rest).toBe('True mine! below')
})

test('without the environment variable memory is copied, as upstream does', async () => {
  await start()
  const images = join(dir, 'copied')
  await criu('dump', images, {})
  await criu('restore', images, {})
  expect(mapsOf(`${images}/pages-1.img`)).toBe(0)
  await counting(state().count)
  expect(state().rest).toBe('True mine! below')
})
