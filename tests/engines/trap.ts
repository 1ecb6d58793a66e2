import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, globSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'

/**
 * Things of this machine that no sandbox may reach: a file, a process with a secret environment, a socket, a key, a
 * block device. The secret is in none of the programs that look for it.
 */
export interface Trap {
  readonly token: string
  readonly secret: string
  readonly dir: string
  readonly pid: number
  readonly device: { major: number; minor: number }
  /** What of the machine has changed since the trap was set; empty when nothing has. */
  changes(): string[]
  remove(): void
}

const HOLDER = `
import ctypes, os, socket, sys, threading
token = sys.argv[1].encode()
libc = ctypes.CDLL(None)
text = os.environ['TRAP'].encode()
libc.syscall(248, b'user', token, text, len(text), -4)
server = socket.socket(socket.AF_UNIX)
server.bind(b'\\0' + token)
server.listen()
print('set', flush=True)
while True:
    connection, _ = server.accept()
    connection.send(text)
    connection.close()
`

const SETTINGS = ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/modprobe', '/sys/kernel/uevent_helper']

export async function setTrap(programs: readonly string[]): Promise<Trap> {
  const token = `trap-${randomBytes(8).toString('hex')}`
  const secret = `secret-${randomBytes(16).toString('hex')}`
  const dir = `/var/tmp/${token}`
  mkdirSync(`${dir}/tree`, { recursive: true })
  for (const path of [`${dir}/secret`, `${dir}/tree/secret`]) writeFileSync(path, secret)
  execFileSync('mkfs.erofs', ['--quiet', `${dir}/image`, `${dir}/tree`])
  const loop = execFileSync('losetup', ['--find', '--show', '--read-only', `${dir}/image`], {
    encoding: 'utf8',
  }).trim()
  const [major, minor] = readFileSync(`/sys/block/${loop.slice('/dev/'.length)}/dev`, 'utf8')
    .split(':')
    .map(Number)
  const holder = await startHolder(token, secret)
  const facts = (): Map<string, string> => machineFacts(programs)
  const before = facts()
  return {
    token,
    secret,
    dir,
    pid: holder.pid!,
    device: { major: major!, minor: minor! },
    changes: () => [
      ...[...facts()].filter(([name, value]) => before.get(name) !== value).map(([name]) => name),
      ...['written', 'agent'].filter((name) => existsSync(`${dir}/${name}`)),
    ],
    remove: () => {
      holder.kill('SIGKILL')
      execFileSync('losetup', ['--detach', loop])
      rmSync(dir, { recursive: true, force: true })
    },
  }
}

async function startHolder(token: string, secret: string): Promise<ChildProcess> {
  const holder = spawn('python3', ['-c', HOLDER, token], {
    env: { PATH: process.env.PATH ?? '', TRAP: secret },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  await once(holder.stdout, 'data')
  return holder
}

/** What an escape may change: settings that name programs, and the programs that run sandboxes. */
function machineFacts(programs: readonly string[]): Map<string, string> {
  const settings = [...SETTINGS, ...globSync('/sys/fs/cgroup/*/release_agent')].filter((path) =>
    existsSync(path),
  )
  const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex')
  return new Map([
    ...settings.map((path): [string, string] => [path, readFileSync(path, 'utf8')]),
    ...programs.map((path): [string, string] => [path, digest(path)]),
  ])
}
