/**
 * The life of a microVM under QEMU, on machines without KVM too: the processor of its guests is emulated, so this is a
 * shorter suite with longer time-outs. Times from here say nothing.
 */
import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { CgroupRoot } from '../../packages/host/src/linux/cgroup-root.ts'
import { loadConfig } from '../../packages/server/src/config.ts'
import { installForTests } from '../../packages/server/src/engines/for-tests.ts'
import { qemuInstaller } from '../../packages/server/src/engines/install-qemu.ts'
import { readPublishedTemplates } from '../../packages/server/src/tenancy.ts'
import { shell } from '../system/harness/test-host.ts'
import { FORK_BOMB, MEMORY_BOMB } from './bombs.ts'
import { buildOn, cachedSteps, comparable, forgetBuilds } from './built-layers.ts'
import { EngineHost, python } from './engine-host.ts'
import { emulatedQemu } from './engines-under-test.ts'
import { leftovers } from './leftovers.ts'

const TEST_TIMEOUT_MS = 600_000
const CLOCK_IS_RIGHT_MS = 100
const NOTHING = { processes: 0, mounts: 0, journalEntries: 0 }

/** What must be its own in every sandbox, and how far its clock is off. */
const identity = async (address: string): Promise<string[]> => {
  const beganMs = Date.now()
  const text = await python(
    address,
    `
import os, socket, time
print(time.time() * 1000)
print(socket.gethostname())
print(open('/proc/sys/kernel/random/boot_id').read().strip())
print(open('/etc/machine-id').read().strip())
print(os.urandom(8).hex())
`,
  )
  const [clock, ...facts] = text.split('\n')
  expect(Number(clock)).toBeGreaterThan(beganMs - CLOCK_IS_RIGHT_MS)
  expect(Number(clock)).toBeLessThan(Date.now() + CLOCK_IS_RIGHT_MS)
  return facts
}

const COUNTER = `
import os, time
from itertools import count
if os.fork() == 0:
    os.setsid()
    null = os.open('/dev/null', os.O_RDWR)
    for fd in range(3): os.dup2(null, fd)
    for i in count():
        with open('/run/count.new', 'w') as file: file.write(f'{os.getpid()} {i}')
        os.rename('/run/count.new', '/run/count')
        time.sleep(0.05)
`

async function goesOn(address: string): Promise<number> {
  const read = async (): Promise<number[]> => (await shell(address, 'cat /run/count')).split(' ').map(Number)
  const [, before] = await read()
  await expect.poll(async () => (await read())[1], { timeout: 60_000 }).toBeGreaterThan(before!)
  return (await read())[0]!
}

async function startCounter(address: string): Promise<number> {
  await python(address, COUNTER)
  await expect.poll(() => goesOn(address).catch(() => 0), { timeout: 60_000 }).toBeGreaterThan(0)
  return await goesOn(address)
}

describe('microvm under QEMU, emulated', () => {
  const under = new EngineHost(emulatedQemu)
  const { host } = under
  const timed = (name: string, body: () => Promise<void>): void => it(name, body, TEST_TIMEOUT_MS)

  beforeAll(async () => {
    await installForTests(qemuInstaller, loadConfig(), () => {})
    await under.start()
  }, TEST_TIMEOUT_MS)
  afterAll(() => host.dispose(), TEST_TIMEOUT_MS)

  timed(
    'clones of one memory are somebody new each, on a kernel of their own, at the right time',
    async () => {
      const ids = ['one', 'two', 'three']
      const addresses: string[] = []
      for (const id of ids) addresses.push(await under.run(id))
      const { sandboxes } = await host.client.list({})
      expect(sandboxes.map(({ engine }) => engine)).toEqual(ids.map(() => 'microvm'))
      const identities = await Promise.all(addresses.map(identity))
      expect(identities.map(([hostname]) => hostname)).toEqual(ids)
      for (let fact = 0; fact < identities[0]!.length; fact++)
        expect(new Set(identities.map((facts) => facts[fact])).size).toBe(ids.length)
      expect(await shell(addresses[0]!, 'uname -r')).toMatch(/-cloud-amd64$/)
      await under.stop(...ids)
    },
  )

  timed('pauses and goes on where it was, is forked, and is adopted by the next daemon', async () => {
    let address = await under.run('paused')
    const pid = await startCounter(address)
    const snapshotId = await under.pause('paused')
    expect(await host.address('paused')).toBeUndefined()
    address = await under.run('paused', { snapshotId, consumeSnapshot: true })
    expect(await goesOn(address)).toBe(pid)

    await host.client.snapshot({ sandboxId: 'paused', snapshotId: 'fork' })
    const forks = await Promise.all(['fork1', 'fork2'].map((id) => under.run(id, { snapshotId: 'fork' })))
    for (const each of [address, ...forks]) expect(await goesOn(each)).toBe(pid)
    await shell(forks[0]!, 'echo own > /root/own')
    expect(await shell(forks[1]!, 'ls /root/own 2>&1 || true')).toContain('No such file')
    await under.stop('fork1', 'fork2')
    await host.client.deleteSnapshot({ snapshotId: 'fork' })

    await under.crash()
    expect(await host.address('paused')).toBe(address)
    expect(await goesOn(address)).toBe(pid)
    await under.stop('paused')
  })

  timed('keeps files alone: what was written is there, what ran is not', async () => {
    const address = await under.run('files')
    await shell(
      address,
      'echo written > /root/file; ln -s file /root/link; chown user /root/file; touch /run/x',
    )
    // chattr +i
    await python(
      address,
      `
import fcntl, struct
with open('/etc/resolv.conf', 'a+') as file:
    file.write('# mine'); file.flush()
    fcntl.ioctl(file, 0x40086602, struct.pack('l', 0x10))
`,
    )
    const snapshotId = await under.pause('files', false)
    const booted = await under.run('files', { snapshotId, consumeSnapshot: true, memory: false })
    expect(await shell(booted, 'cat /root/link; stat -c %U /root/file; ls /run/x 2>/dev/null | wc -l')).toBe(
      'written\nuser\n0',
    )
    expect(await shell(booted, 'cat /etc/resolv.conf')).toContain('# mine')
    await under.stop('files')
  })

  timed('bombs hit the guest alone: memory, processes, disk; and busy loops get one processor', async () => {
    const address = await under.run('greedy')
    await expect(python(address, MEMORY_BOMB)).rejects.toThrow('Killed')
    // By the limit of the group, not for want of memory: a kernel without any may look for some for ever.
    expect(await shell(address, 'cat /sys/fs/cgroup/sandbox/memory.events')).toMatch(/^oom_kill [1-9]/m)
    const [forks] = (await python(address, FORK_BOMB)).split('\n')
    expect(forks).toBe('11')
    const written = shell(address, 'fallocate -l 100G /var/bomb')
    await expect(written).rejects.toThrow('No space left on device')
    const cgroups = new CgroupRoot({ instance: host.instance })
    const usage = (): number =>
      cgroups.list().reduce((sum, name) => sum + cgroups.cgroup(name).usage().cpuUsec, 0)
    const [beganUsec, beganMs] = [usage(), performance.now()]
    await shell(address, 'for i in 1 2 3; do timeout 3 sh -c "while :; do :; done" & done; wait; true')
    expect((usage() - beganUsec) / 1000 / (performance.now() - beganMs)).toBeLessThan(1.35)
    expect(await shell(address, 'echo lives')).toBe('lives')
    await under.stop('greedy')
  })

  timed(
    'a guest reaches neither neighbour, machine, metadata nor IPv6, also under other addresses',
    async () => {
      const [address, neighbour] = [await under.run('curious'), await under.run('neighbour')]
      const machine = neighbour.replace(/\d+$/, '1')
      const reached = await python(
        address,
        `
import socket, struct, subprocess
def tcp(address, port, source=None):
    try:
        with socket.create_connection((address, port), 5, source_address=source): return 'reached'
    except OSError: return 'refused'
for address, port in [('${neighbour}', 49983), ('${machine}', 22), ('${machine}', 49983), ('169.254.169.254', 80), ('192.168.0.1', 80)]:
    print(tcp(address, port))
subprocess.run(['ip', 'address', 'add', '169.254.0.99/32', 'dev', 'eth0'])
subprocess.run(['ip', 'address', 'add', '${neighbour}/32', 'dev', 'eth0'])
print(tcp('1.1.1.1', 53, ('169.254.0.99', 0)), tcp('1.1.1.1', 53, ('${neighbour}', 0)))
try:
    socket.create_connection(('2606:4700:4700::1111', 53), 5); print('reached')
except OSError: print('refused')
`,
      )
      expect(reached.split(/\s/)).toEqual(Array(8).fill('refused'))
      expect(await shell(neighbour, 'echo fine')).toBe('fine')
      await under.stop('curious', 'neighbour')
    },
  )

  timed('steps of a build run in machines and make the layers that a container makes', async () => {
    const { imagesDir } = loadConfig()
    const base = readPublishedTemplates(loadConfig()).find(({ name }) => name === 'base')!
    const stepsBefore = cachedSteps(imagesDir)
    const run = randomUUID()
    const builds = (['microvm', 'container'] as const).map((isolation) => ({
      buildId: `${isolation}-${run}`,
      isolation,
      run,
    }))
    const from = { client: host.client, imagesDir, baseSnapshotId: base.snapshotId }
    try {
      const inMachine = await buildOn(from, builds[0]!)
      expect(inMachine.lines).toEqual(expect.arrayContaining(['in a machine', 'seen']))
      const inContainer = await buildOn(from, { ...builds[1]!, force: true })
      expect(inContainer.lines).toEqual(expect.arrayContaining(['in a container', 'seen']))
      expect(inMachine.layers).toHaveLength(3)
      expect(inMachine.layers.map(comparable)).toEqual(inContainer.layers.map(comparable))
    } finally {
      forgetBuilds(
        imagesDir,
        builds.map(({ buildId }) => buildId),
        stepsBefore,
      )
    }
  })

  timed('ends when its machine does, and leaves nothing', async () => {
    const address = await under.run('ends')
    await shell(address, `setsid sh -c 'sleep 1; echo o > /proc/sysrq-trigger' > /dev/null 2>&1 &`)
    await expect.poll(() => host.address('ends'), { timeout: 60_000 }).toBeUndefined()
    await expect.poll(() => leftovers(host), { timeout: 60_000 }).toEqual(NOTHING)
  })
})
