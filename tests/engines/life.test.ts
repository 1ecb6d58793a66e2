/** What the host asks of an engine, over the life of sandboxes. Every engine passes the same suite. */
import { globSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { shell } from '../system/harness/test-host.ts'
import { describeEngines, EngineHost, python } from './engine-host.ts'
import { leftovers } from './leftovers.ts'

const FIRST_BOOT_MS = 120_000
const ENDS_WITHIN_MS = 30_000

/** Counts in memory and writes its pid and the count where it can be read. */
const COUNTER = `
import os, time
from itertools import count
if os.fork() == 0:
    os.setsid()
    null = os.open('/dev/null', os.O_RDWR)
    for fd in range(3): os.dup2(null, fd)
    deleted = open('/var/tmp/deleted', 'w+')
    os.unlink('/var/tmp/deleted')
    deleted.write('kept'); deleted.flush()
    for i in count():
        deleted.seek(0)
        with open('/var/tmp/count.new', 'w') as file: file.write(f'{os.getpid()} {i} {deleted.read()}')
        os.rename('/var/tmp/count.new', '/var/tmp/count')
        time.sleep(0.02)
`

const NOTHING = { processes: 0, mounts: 0, journalEntries: 0 }

interface Counted {
  pid: number
  count: number
  deleted: string
}

async function counted(address: string): Promise<Counted> {
  const words = (await shell(address, 'cat /var/tmp/count')).split(' ')
  return { pid: Number(words[0]), count: Number(words[1]), deleted: words[2] ?? '' }
}

/** Waits until a counter has gone on. */
async function goesOn(address: string): Promise<Counted> {
  const before = await counted(address)
  await expect.poll(async () => (await counted(address)).count).toBeGreaterThan(before.count)
  return await counted(address)
}

async function startCounter(address: string): Promise<Counted> {
  await python(address, COUNTER)
  await expect.poll(() => counted(address).catch(() => undefined)).toBeDefined()
  return await goesOn(address)
}

/** What must be its own in every sandbox. */
const identity = (address: string): Promise<string[]> =>
  python(
    address,
    `
import os, socket
print(socket.gethostname())
print(open('/proc/sys/kernel/random/boot_id').read().strip())
print(open('/etc/machine-id').read().strip())
print(open('/run/e2b/.generation').read().strip())
print(os.urandom(8).hex())
`,
  ).then((text) => text.split('\n'))

/** As the daemon keeps it. */
function initPidOf(sandboxId: string, stateDir: string): number {
  for (const path of globSync(`${stateDir}/journal/*`)) {
    const entry = JSON.parse(readFileSync(path, 'utf8')) as { sandboxId: string; initPid: number }
    if (entry.sandboxId === sandboxId) return entry.initPid
  }
  throw new Error(`${sandboxId} is not in the journal`)
}

describeEngines('life', (engine) => {
  const under = new EngineHost(engine)
  const { host } = under
  beforeAll(() => under.start(), FIRST_BOOT_MS)
  afterAll(() => host.dispose(), FIRST_BOOT_MS)

  it(
    'serves, and a sandbox runs on it',
    async () => {
      await under.run('first')
      const { engines } = await host.client.status({})
      expect(engines.find(({ name }) => name === engine.name)).toMatchObject({ usable: true, remedy: '' })
      const { sandboxes } = await host.client.list({})
      expect(sandboxes).toMatchObject([{ sandboxId: 'first', engine: engine.name }])
      await under.stop('first')
    },
    FIRST_BOOT_MS,
  )

  it(
    'boots files alone',
    async () => {
      const address = await under.run('cold', { memory: false })
      expect(await shell(address, 'id -u; echo $((6 * 7)); cat /proc/1/comm')).toBe('0\n42\ninit')
      await under.stop('cold')
    },
    FIRST_BOOT_MS,
  )

  it('starts from memory as somebody new each time', async () => {
    const ids = ['one', 'two', 'three']
    const identities = await Promise.all(ids.map(async (id) => identity(await under.run(id))))
    expect(identities.map(([hostname]) => hostname)).toEqual(ids)
    for (let fact = 0; fact < identities[0]!.length; fact++)
      expect(new Set(identities.map((facts) => facts[fact])).size).toBe(ids.length)
    await under.stop(...ids)
  })

  it('has users, sudo, a terminal, file events and the same address in every sandbox', async () => {
    const address = await under.run('rich')
    const text = await shell(
      address,
      `su user -c 'sudo -n id -u'
script -qec 'stty rows 33 cols 99; stty size' /dev/null | tr -d '\\r'
ip -o -4 address show eth0 2>/dev/null | grep -o '169.254.0.21/30' || python3 -c "
import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('10.255.255.1', 9)); print(s.getsockname()[0] + '/30')"`,
    )
    expect(text.split('\n')).toEqual(['0', '33 99', '169.254.0.21/30'])
    const event = await python(
      address,
      `
import ctypes, os
libc = ctypes.CDLL(None)
fd = libc.inotify_init()
libc.inotify_add_watch(fd, b'/usr/share', 0x100)
open('/usr/share/made-now', 'w').close()
print(os.read(fd, 4096)[16:].rstrip(bytes(1)).decode())
`,
    )
    expect(event).toBe('made-now')
    await under.stop('rich')
  })

  it('pauses and goes on where it was, twice', async () => {
    let address = await under.run('paused')
    const before = await startCounter(address)
    for (let time = 0; time < 2; time++) {
      const snapshotId = await under.pause('paused')
      expect(await host.address('paused')).toBeUndefined()
      address = await under.run('paused', { snapshotId, consumeSnapshot: true })
      expect(await goesOn(address)).toMatchObject({ pid: before.pid, deleted: 'kept' })
    }
    await under.stop('paused')
  })

  it('forks three times, and the source goes on', async () => {
    const source = await under.run('source')
    const before = await startCounter(source)
    await host.client.snapshot({ sandboxId: 'source', snapshotId: 'fork' })
    const ids = ['fork1', 'fork2', 'fork3']
    const forks = await Promise.all(ids.map((id) => under.run(id, { snapshotId: 'fork' })))
    for (const address of [source, ...forks])
      expect(await goesOn(address)).toMatchObject({ pid: before.pid, deleted: 'kept' })
    await Promise.all(forks.map((address, index) => shell(address, `echo ${index} > /root/own`)))
    expect(await Promise.all(forks.map((address) => shell(address, 'cat /root/own')))).toEqual([
      '0',
      '1',
      '2',
    ])
    expect(await shell(source, 'ls /root')).not.toContain('own')
    const identities = await Promise.all([source, ...forks].map(identity))
    for (let fact = 0; fact < identities[0]!.length; fact++)
      expect(new Set(identities.map((facts) => facts[fact])).size).toBe(4)
    await under.stop('source', ...ids)
    await host.client.deleteSnapshot({ snapshotId: 'fork' })
  })

  it(
    'keeps files alone: what was written is there, what ran is not',
    async () => {
      let address = await under.run('files')
      await startCounter(address)
      await shell(
        address,
        'echo written > /root/file; ln -s file /root/link; chown user /root/file; rm /etc/motd',
      )
      const snapshotId = await under.pause('files', false)
      address = await under.run('files', { snapshotId, consumeSnapshot: true, memory: false })
      expect(await shell(address, 'cat /root/link; stat -c %U /root/file; ls /etc/motd 2>&1 | wc -l')).toBe(
        'written\nuser\n1',
      )
      const { pid } = await counted(address)
      expect(await shell(address, `grep -c setsid /proc/${pid}/cmdline 2>/dev/null || echo none`)).not.toBe(
        '1',
      )
      const { count } = await counted(address)
      await new Promise((resolve) => setTimeout(resolve, 200))
      expect((await counted(address)).count).toBe(count)
      await under.stop('files')
    },
    FIRST_BOOT_MS,
  )

  it('is noticed to be gone when its first process is', async () => {
    await under.run('ends')
    process.kill(initPidOf('ends', host.stateDir), 'SIGKILL')
    await expect.poll(() => host.address('ends'), { timeout: ENDS_WITHIN_MS }).toBeUndefined()
    await expect.poll(() => leftovers(host)).toEqual(NOTHING)
  })

  it('goes on when its daemon is killed, and the next one ends it', async () => {
    const address = await under.run('adopted')
    const before = await startCounter(address)
    await under.crash()
    expect(await host.address('adopted')).toBe(address)
    expect((await goesOn(address)).pid).toBe(before.pid)
    const snapshotId = await under.pause('adopted')
    const again = await under.run('adopted', { snapshotId, consumeSnapshot: true })
    expect((await goesOn(again)).pid).toBe(before.pid)
    await under.stop('adopted')
    // Whoever has the slot next finds it as it was.
    const next = await under.run('next')
    expect(await shell(next, 'echo fine')).toBe('fine')
    await under.stop('next')
  })

  it(
    'leaves nothing when its daemon is killed in the middle of starts',
    async () => {
      for (const afterMs of [5, 40, 90, 150, 250, 400]) {
        const starts = ['a', 'b', 'c'].map((name) => under.run(`${name}${afterMs}`).catch(() => {}))
        await new Promise((resolve) => setTimeout(resolve, afterMs))
        await under.crash()
        await Promise.all(starts)
        const { sandboxes } = await host.client.list({})
        for (const { address } of sandboxes) expect(await shell(address, 'echo lives')).toBe('lives')
        await under.stop(...sandboxes.map(({ sandboxId }) => sandboxId))
      }
      await expect.poll(() => leftovers(host), { timeout: ENDS_WITHIN_MS }).toEqual(NOTHING)
    },
    FIRST_BOOT_MS,
  )
})
