import { execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { buildAgentLayer } from './build.ts'

let dir: string
let first: { directory: string; digestInputs: string }

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'envd-layer-'))
  chmodSync(dir, 0o755)
  first = await buildAgentLayer({ outDir: join(dir, 'layer'), cacheDir: join(dir, 'cache') })
}, 180_000)

afterAll(() => rmSync(dir, { recursive: true, force: true }))

function digests(root: string): string {
  return execFileSync(
    'sh',
    ['-c', 'find . -type f -printf "%p %m %T@\\n" | sort; find . -type f | sort | xargs sha256sum'],
    {
      cwd: root,
      encoding: 'utf8',
    },
  )
}

test('equal inputs give an equal tree', async () => {
  const second = await buildAgentLayer({ outDir: join(dir, 'again'), cacheDir: join(dir, 'cache') })
  expect(second.digestInputs).toBe(first.digestInputs)
  expect(digests(second.directory)).toBe(digests(first.directory))
  expect(readdirSync(second.directory)).toEqual(['.e2b'])
}, 120_000)

/** Nothing but the layer, users and mount points: not even a shell. */
function emptyRoot(): string {
  const root = join(dir, 'root')
  for (const path of ['etc', 'proc', 'dev', 'root', 'run']) mkdirSync(join(root, path), { recursive: true })
  cpSync(first.directory, root, { recursive: true })
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\n')
  return root
}

test('init starts the agent in a root without a C library, restarts it, and ends on SIGTERM', async () => {
  const root = emptyRoot()
  const port = 40_000 + (process.pid % 20_000)
  const setup = `mount -t proc proc ${root}/proc && mount -t tmpfs none ${root}/dev &&
    mknod -m 666 ${root}/dev/null c 1 3 && mknod -m 666 ${root}/dev/urandom c 1 9 && exec "$@"`
  const init = ['/.e2b/bin/init', '/.e2b/bin/node', '/.e2b/envd.mjs', `${port}`, '127.0.0.1']
  const container = spawn(
    'unshare',
    ['--pid', '--mount', '--fork', '--kill-child', 'sh', '-c', setup, 'sh', 'chroot', root, ...init],
    { stdio: 'ignore', env: { PATH: process.env.PATH, NODE_OPTIONS: '--no-such-option' } },
  )
  try {
    const health = async (): Promise<number> =>
      (await fetch(`http://127.0.0.1:${port}/health`).catch(() => undefined))?.status ?? 0
    await expect.poll(health, { timeout: 10_000 }).toBe(204)
    const agentPid = Number(
      execFileSync('pgrep', ['-f', `^/.e2b/bin/node /.e2b/envd.mjs ${port}`], { encoding: 'utf8' }).trim(),
    )
    process.kill(agentPid, 'SIGKILL')
    await expect
      .poll(() => readFileSync(join(root, 'run/e2b/envd.log'), 'utf8').split('agent_start').length, {
        timeout: 10_000,
      })
      .toBe(3)
    await expect.poll(health, { timeout: 10_000 }).toBe(204)
    const initPid = Number(
      execFileSync('pgrep', ['-f', `^/.e2b/bin/init .* ${port}`], { encoding: 'utf8' }).trim(),
    )
    process.kill(initPid, 'SIGURG')
    expect(await health()).toBe(204)
    const ended = new Promise((resolve) => container.once('exit', resolve))
    process.kill(initPid, 'SIGTERM')
    await ended
    expect(await health()).toBe(0)
  } finally {
    container.kill('SIGKILL')
  }
}, 60_000)

test('the layer is smaller than the Node it is made of', () => {
  expect(statSync(join(first.directory, '.e2b/bin/node')).size).toBeLessThan(120_000_000)
})
