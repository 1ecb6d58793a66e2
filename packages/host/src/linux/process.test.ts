import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { tryLock, unlock } from './file-lock.ts'
import { fileSystemOf } from './file-system.ts'
import { attachLoopDevice } from './loop-device.ts'
import { setHostname } from './namespace.ts'
import { pidfdOpen, pidfdSendSignal } from './pidfd.ts'
import { alive, processStartTime, run } from './process.ts'

test('a process is told from another by its start time, and a zombie is not alive', async () => {
  const child = spawn('sleep', ['30'])
  const pid = child.pid!
  const startTime = processStartTime(pid)!
  expect(alive(pid, startTime)).toBe(true)
  expect(alive(pid, startTime - 1)).toBe(false)
  const pidfd = pidfdOpen(pid)
  expect(pidfdSendSignal(pidfd, 9)).toBe(true)
  await once(child, 'exit')
  expect(alive(pid, startTime)).toBe(false)
  expect(pidfdSendSignal(pidfd, 9)).toBe(false)
  closeSync(pidfd)
})

test('run returns output, feeds stdin, and reports status and stderr', async () => {
  expect((await run('cat', [], { stdin: 'hello' })).stdout).toBe('hello')
  await expect(run('ls', ['/no/such/path'])).rejects.toMatchObject({
    status: 2,
    stderr: expect.stringContaining('/no/such/path'),
  })
  expect((await run('sh', ['-c', 'echo half; exit 1'], { passes: [0, 1] })).stdout).toBe('half\n')
  await expect(run('no-such-program', [])).rejects.toMatchObject({ code: 'ENOENT' })
})

test('run ends a program at its timeout and keeps a bounded output', async () => {
  await expect(run('sleep', ['30'], { timeoutMs: 50 })).rejects.toThrow('no end after 50 ms')
  const { stdout } = await run('head', ['-c', '100000', '/dev/zero'], { maxOutputBytes: 10 })
  expect(stdout).toHaveLength(10)
})

test('the host name changes in the other UTS namespace only', async () => {
  const before = readlinkSync('/proc/thread-self/ns/uts')
  const child = spawn('unshare', ['--uts', 'cat'], { stdio: ['pipe', 'pipe', 'inherit'] })
  child.stdin.write('\n')
  await once(child.stdout, 'data')
  setHostname(`/proc/${child.pid}/ns/uts`, 'sandbox-1')
  const { stdout } = await run('nsenter', [`--uts=/proc/${child.pid}/ns/uts`, 'hostname'])
  child.stdin.end()
  expect(stdout.trim()).toBe('sandbox-1')
  expect(hostname()).not.toBe('sandbox-1')
  expect(readlinkSync('/proc/thread-self/ns/uts')).toBe(before)
})

test('an exclusive lock is refused to a second open file until given back', () => {
  const dir = mkdtempSync(join(tmpdir(), 'lock-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const first = openSync(join(dir, 'lock'), 'w')
  const second = openSync(join(dir, 'lock'), 'w')
  expect(tryLock(first)).toBe(true)
  expect(tryLock(second)).toBe(false)
  unlock(first)
  expect(tryLock(second)).toBe(true)
  closeSync(first)
  closeSync(second)
})

test('file systems are named and a loop device frees itself when closed', () => {
  expect(fileSystemOf('/proc').type).toBe('proc')
  expect(fileSystemOf('/sys').type).toBe('sysfs')
  const dir = mkdtempSync('/var/tmp/loop-')
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const file = join(dir, 'disk')
  writeFileSync(file, '')
  truncateSync(file, 1024 * 1024)
  const device = attachLoopDevice(file, { directIo: true })
  const sysfs = `/sys/block/${device.path.slice('/dev/'.length)}/loop`
  expect(readFileSync(`${sysfs}/backing_file`, 'utf8').trim()).toBe(file)
  expect(readFileSync(`${sysfs}/dio`, 'utf8').trim()).toBe('1')
  closeSync(device.fd)
})

test('a process without a descriptor left is refused its programs, and lives on', async () => {
  const from = (file: string): string => JSON.stringify(join(import.meta.dirname, file))
  const script = `
import { closeSync, openSync } from 'node:fs'
import { userNamespaceFor } from ${from('idmap.ts')}
import { run } from ${from('process.ts')}
const fds = []
try { for (;;) fds.push(openSync('/dev/null')) } catch {}
const outcomes = await Promise.allSettled([run('true', []), userNamespaceFor(0x7100_0000)])
await new Promise((resolve) => setTimeout(resolve, 50))
for (const fd of fds) closeSync(fd)
await run('true', [])
process.stdout.write(outcomes.map(({ reason }) => reason.message).join())
`
  const node = [process.execPath, '--input-type=module', '--eval', script]
  const { stdout } = await run('sh', ['-c', 'ulimit -n 64; exec "$@"', 'sh', ...node])
  expect(stdout).toBe('spawn true EMFILE,spawn unshare EMFILE')
})
