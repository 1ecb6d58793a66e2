import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parseMountTable } from '../../linux/mount-table.ts'
import type { ProcessInstance } from '../instance.ts'
import type { ContainerEngine } from './container-engine.ts'
import { guestState, inGuest, SandboxFixture } from './sandbox-fixture.ts'

const SETUP_TIMEOUT_MS = 180_000

let fixture: SandboxFixture
let engine: ContainerEngine
let booted: ProcessInstance
let restored: ProcessInstance

beforeAll(async () => {
  fixture = await SandboxFixture.make('e2bti')
  engine = fixture.engine()
  const plan = await fixture.plan(0)
  booted = await engine.start(plan)
  await guestState(booted)
  const memoryDir = fixture.memoryDir()
  let layers = plan.layers
  const whileStill = async (): Promise<void> => {
    layers = [...plan.layers, await fixture.layerOf(plan.upper)]
  }
  await engine.capture(booted, { memoryDir, leaveRunning: true, whileStill })
  restored = await engine.start(await fixture.plan(1, { memoryDir, layers }))
}, SETUP_TIMEOUT_MS)

afterAll(async () => {
  await engine.stop(booted)
  await engine.stop(restored)
  await fixture.remove()
}, SETUP_TIMEOUT_MS)

/** What root inside must be refused, after a cold boot as after a restore. */
const REFUSED = {
  'a new mount': ['mount', 'EPERM'],
  'a bind mount': ['bind', 'EPERM'],
  'a writable /proc/sys': ['remount', 'EPERM'],
  'unmasking a file': ['umount', 'EPERM'],
  'a file system by descriptor': ['fsopen', 'EPERM'],
  'a disk of its own making': ['mknod', 'EPERM'],
  'a user namespace': ['unshare-user', 'EPERM'],
  'a mount namespace': ['unshare-mount', 'EPERM'],
  'a child in a user namespace': ['clone-user', 'ENOSYS'],
  'entering a namespace': ['setns', 'EPERM'],
  'the kernel keyring': ['keyctl', 'EPERM'],
  'a kernel program': ['bpf', 'EPERM'],
  'an io_uring': ['io_uring', 'EPERM'],
  'a page fault handler': ['userfaultfd', 'EPERM'],
  'performance counters': ['perf', 'EPERM'],
  'a kernel module': ['module', 'EPERM'],
  'a reboot': ['reboot', 'EPERM'],
  'a host name by itself': ['sethostname', 'EPERM'],
  'the clock': ['settime', 'EPERM'],
  'swap space': ['swapon', 'EPERM'],
  'a file by handle': ['handle', 'EPERM'],
  'raw packets': ['raw-socket', 'ENOSYS'],
  'a socket to the hypervisor': ['vsock', 'ENOSYS'],
  'a program for the host to run on a crash': ['core-pattern', 'EACCES EROFS'],
  'the magic key': ['sysrq', 'EACCES EROFS ENOENT'],
  'the kernel log': ['kernel-log', 'EPERM'],
  'the disk of the machine': ['disk', 'ENOENT'],
  'the memory of the machine': ['kcore', 'ENOENT'],
} as const

for (const [what, [name, errors]] of Object.entries(REFUSED)) {
  test(`root inside does not get ${what}`, async () => {
    expect(errors.split(' ')).toContain(await inGuest(booted, '/bin/attempt', name))
    expect(errors.split(' ')).toContain(await inGuest(restored, '/bin/attempt', name))
  })
}

test('the attempts are made as root, and an unknown one is not taken for a refusal', async () => {
  expect(await inGuest(booted, '/bin/id', '-u')).toBe('0')
  expect(await inGuest(booted, '/bin/attempt', 'no such attempt')).toBe('EINVAL')
})

test('capabilities, filter and id range survive the restore', async () => {
  const security = (pid: number): string[] =>
    readFileSync(`/proc/${pid}/status`, 'utf8').match(/^(Cap|Seccomp:).*$/gm) ?? []
  expect(security(booted.initPid)).toContain('Seccomp:\t2')
  expect(security(restored.initPid)).toEqual(security(booted.initPid))
})

test('kernel settings are read-only, the machine is masked', () => {
  for (const instance of [booted, restored]) {
    const mounts = parseMountTable(readFileSync(`/proc/${instance.initPid}/mountinfo`, 'utf8'))
    const readOnly = mounts.filter((mount) => mount.options.includes('ro')).map((mount) => mount.target)
    for (const path of ['/proc/sys', '/proc/irq', '/proc/bus', '/proc/fs', '/proc/keys', '/sys', '/dev'])
      expect(readOnly).toContain(path)
  }
})

test('a sandbox sees its own processes only', async () => {
  for (const instance of [booted, restored]) {
    const pids = (await inGuest(instance, '/bin/ls', '/proc'))
      .split('\n')
      .filter((name) => /^\d+$/.test(name))
    expect(pids.length).toBeLessThanOrEqual(4)
    expect(pids).toContain('1')
  }
})

test('nothing inside names a path of this machine', async () => {
  for (const instance of [booted, restored]) {
    for (const file of ['mountinfo', 'maps', 'cgroup', 'environ']) {
      const content = await inGuest(instance, '/bin/cat', `/proc/1/${file}`)
      expect(content).not.toContain(fixture.parts.dir)
      expect(content).not.toContain(fixture.parts.instance)
    }
  }
})

test('devices are the harmless ones, and they work', async () => {
  const names = (await inGuest(restored, '/bin/ls', '/dev')).split('\n')
  const links = ['fd', 'ptmx', 'stderr', 'stdin', 'stdout']
  const directories = ['mqueue', 'pts', 'shm']
  const devices = ['full', 'null', 'random', 'tty', 'urandom', 'zero']
  expect(names.toSorted()).toEqual([...links, ...directories, ...devices].toSorted())
  expect(await inGuest(restored, '/bin/sh', '-c', 'echo gone >/dev/null && echo kept')).toBe('kept')
  expect(await inGuest(restored, '/bin/sh', '-c', 'echo shared >/dev/shm/x && cat /dev/shm/x')).toBe('shared')
})

test('boot id and masks', async () => {
  const host = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  const own = await inGuest(restored, '/bin/cat', '/proc/sys/kernel/random/boot_id')
  expect(own).toMatch(/^[0-9a-f-]{36}$/)
  expect(own).not.toBe(host)
  expect(await inGuest(restored, '/bin/cat', '/proc/timer_list')).toBe('')
  expect(await inGuest(restored, '/bin/cat', '/proc/meminfo')).toMatch(/^MemTotal: +262144 kB$/m)
  expect(await inGuest(restored, '/bin/ls', '/sys/class/net')).toBe('lo')
})

test('memory: the greedy process dies, init lives, and the kill is counted', async () => {
  for (const instance of [booted, restored]) {
    expect(await inGuest(instance, '/bin/attempt', 'memory')).not.toBe('done')
    const usage = await engine.usage(instance)
    expect(usage.oomKills).toBeGreaterThanOrEqual(1)
    expect((await guestState(instance)).count).toBeGreaterThan(1)
  }
})

test('processes: a fork bomb meets its limit, and init goes on', async () => {
  for (const instance of [booted, restored]) {
    expect(await inGuest(instance, '/bin/attempt', 'processes')).toBe('EAGAIN')
    expect((await guestState(instance)).count).toBeGreaterThan(1)
  }
})
