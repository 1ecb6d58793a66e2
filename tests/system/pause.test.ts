import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { shell, TestHost } from './harness/test-host.ts'

/** Pause, resume, snapshots and forks on a host alone, with processes whose state shows what was kept. */

const host = new TestHost(1)
const BOOT_ID = '/proc/sys/kernel/random/boot_id'

/** Counts, holds 64 MiB of its own, listens, and tells all of it over HTTP on port 7000. */
const COUNTER = `
import http.server, os, threading, time
data = bytearray(os.urandom(1 << 20) * 64)
count = 0
def tick():
  global count
  while True:
    count += 1
    time.sleep(0.01)
threading.Thread(target=tick, daemon=True).start()
class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    body = f'{os.getpid()} {count} {hash(bytes(data))} {os.environ.get("MARK")}'.encode()
    self.send_response(200)
    self.send_header('content-length', str(len(body)))
    self.end_headers()
    self.wfile.write(body)
  def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('0.0.0.0', 7000), Handler).serve_forever()
`

interface Counted {
  pid: string
  count: number
  hash: string
  mark: string
}

async function counted(address: string): Promise<Counted> {
  const [pid, count, hash, mark] = (await shell(address, 'curl -s http://127.0.0.1:7000/')).split(' ')
  return { pid: pid!, count: Number(count), hash: hash!, mark: mark! }
}

async function startCounter(address: string): Promise<Counted> {
  await shell(address, `cat > /root/counter.py <<'END'\n${COUNTER}\nEND`)
  await shell(address, 'MARK=kept setsid -f python3 /root/counter.py >/dev/null 2>&1 </dev/null')
  await shell(
    address,
    'for i in $(seq 100); do curl -s http://127.0.0.1:7000/ && exit 0; sleep 0.1; done; exit 1',
  )
  return counted(address)
}

const pause = async (id: string, memory = true) =>
  (await host.client.pause({ sandboxId: id, memory })).paused!

const resume = (id: string, snapshotId: string, changes: Record<string, unknown> = {}) =>
  host.run(id, { snapshotId, consumeSnapshot: true, ...changes })

beforeAll(() => host.start())
afterAll(() => host.dispose())

describe('pause and resume', () => {
  it('keeps processes, memory, listeners, files and the boot id, round after round', async () => {
    let address = await host.run('round')
    const before = await startCounter(address)
    const bootId = await shell(address, `cat ${BOOT_ID}`)
    await shell(address, 'echo written > /root/file; setsid -f sleep 1000; pkill -STOP -x sleep')
    let last = before.count
    for (let round = 0; round < 5; round++) {
      const paused = await pause('round')
      expect(paused).toMatchObject({ sandboxId: 'round', hasMemory: true, agentUnresponsive: false })
      expect(await host.address('round')).toBeUndefined()
      expect((await host.client.list({})).paused.map((one) => one.sandboxId)).toContain('round')
      address = await resume('round', paused.snapshotId)
      expect((await host.client.list({})).paused).toEqual([])
      const now = await counted(address)
      expect(now).toMatchObject({ pid: before.pid, hash: before.hash, mark: 'kept' })
      expect(now.count).toBeGreaterThanOrEqual(last)
      last = now.count
      await shell(address, `echo ${round} >> /root/file`)
    }
    // Stopped by a signal before, it is so afterwards.
    expect(await shell(address, 'ps -o state= -C sleep')).toBe('T')
    expect(await shell(address, 'cat /root/file')).toBe('written\n0\n1\n2\n3\n4')
    expect(await shell(address, `cat ${BOOT_ID}`)).toBe(bootId)
    await host.client.stop({ sandboxId: 'round' })
  })

  it('keeps open files that were deleted, also those that have other names', async () => {
    let address = await host.run('deleted')
    const hold = `cd /root; echo one > a; ln a b; echo two > c
      setsid -f sh -c 'exec 3<a 4<c; rm a c /usr/share/common-licenses/GPL-3; touch held; exec sleep 1000'
      until [ -e held ]; do sleep 0.05; done`
    await shell(address, hold)
    address = await resume('deleted', (await pause('deleted')).snapshotId)
    expect(await shell(address, 'cd /proc/$(pgrep -x sleep)/fd; cat 3 4; ls /root')).toBe('one\ntwo\nb\nheld')
    await host.client.stop({ sandboxId: 'deleted' })
  })

  it('of files alone boots anew', async () => {
    let address = await host.run('files')
    await startCounter(address)
    const bootId = await shell(address, `cat ${BOOT_ID}`)
    await shell(address, 'echo kept > /root/file; touch /run/of-this-boot; ln -sfn /etc/shadow /run/e2b/mask')
    const { snapshotId, hasMemory } = await pause('files', false)
    expect(hasMemory).toBe(false)
    address = await resume('files', snapshotId)
    expect(await shell(address, 'cat /root/file; ls /run/of-this-boot 2>/dev/null || echo none')).toBe(
      'kept\nnone',
    )
    expect(await shell(address, `cat ${BOOT_ID}`)).not.toBe(bootId)
    expect(await shell(address, 'pgrep -f "[c]ounter.py" || echo gone')).toBe('gone')
    await host.client.stop({ sandboxId: 'files' })
  })

  it('with memory resumes from its files when asked', async () => {
    let address = await host.run('reboot')
    await shell(address, 'echo kept > /root/file; setsid -f sleep 1000')
    const { snapshotId } = await pause('reboot')
    address = await resume('reboot', snapshotId, { memory: false })
    expect(await shell(address, 'cat /root/file; pgrep -x sleep || echo gone')).toBe('kept\ngone')
    await host.client.stop({ sandboxId: 'reboot' })
  })

  it('happens at the end of life when the sandbox says so', async () => {
    const endAt = { seconds: BigInt(Math.floor(Date.now() / 1000) + 3), nanos: 0 }
    await host.run('auto', { endAt, onEnd: 1 })
    const deadline = Date.now() + 15_000
    let paused: { sandboxId: string; snapshotId: string }[] = []
    while (paused.length === 0 && Date.now() < deadline) {
      paused = (await host.client.list({})).paused
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    expect(paused).toMatchObject([{ sandboxId: 'auto' }])
    await host.client.stop({ sandboxId: 'auto' })
    expect((await host.client.list({})).paused).toEqual([])
    await expect(host.run('auto', { snapshotId: paused[0]!.snapshotId })).rejects.toThrow('not on this host')
  })

  it('marks a sandbox whose agent does not answer, or refuses when told to', async () => {
    const address = await host.run('silent')
    await shell(address, '(sleep 0.3; pkill -STOP -f "[e]nvd.mjs") >/dev/null 2>&1 &')
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    await expect(host.client.pause({ sandboxId: 'silent', requireHealthyGuest: true })).rejects.toThrow(
      'keeps running',
    )
    expect(await host.address('silent')).toBe(address)
    expect(await pause('silent')).toMatchObject({ agentUnresponsive: true })
    await host.client.stop({ sandboxId: 'silent' })
  })
})

describe('snapshots of running sandboxes', () => {
  it('make independent forks, and the source goes on', async () => {
    const address = await host.run('source')
    const before = await startCounter(address)
    await shell(address, 'echo source > /root/who')
    expect(await host.client.snapshot({ sandboxId: 'source', snapshotId: 'fork-1' })).toMatchObject({
      hasMemory: true,
    })
    const ids = ['fork1', 'fork2', 'fork3']
    const forks = await Promise.all(ids.map((id) => host.run(id, { snapshotId: 'fork-1' })))
    await host.client.deleteSnapshot({ snapshotId: 'fork-1' })
    for (const [at, fork] of forks.entries()) {
      expect(await counted(fork)).toMatchObject({ pid: before.pid, hash: before.hash })
      await shell(fork, `echo ${ids[at]} > /root/who`)
    }
    const all = [address, ...forks]
    const names = await Promise.all(all.map((one) => shell(one, 'cat /root/who; hostname')))
    expect(names).toEqual(['source\nsource', 'fork1\nfork1', 'fork2\nfork2', 'fork3\nfork3'])
    expect(new Set(await Promise.all(all.map((one) => shell(one, `cat ${BOOT_ID}`)))).size).toBe(4)
    const now = await counted(address)
    expect(now.pid).toBe(before.pid)
    expect(now.count).toBeGreaterThan(before.count)
    const { snapshotId } = await pause('fork2')
    const again = await resume('fork2', snapshotId)
    expect(await counted(again)).toMatchObject({ pid: before.pid, hash: before.hash })
    expect(await shell(again, 'cat /root/who')).toBe('fork2')
    const { metrics } = await host.client.metrics({})
    expect(metrics.map((one) => one.sandboxId)).toEqual(expect.arrayContaining(['source', ...ids]))
    for (const one of metrics) expect(Number(one.memoryUsedBytes)).toBeGreaterThan(0)
    await Promise.all(['source', ...ids].map((sandboxId) => host.client.stop({ sandboxId })))
  })

  it('of files alone start by a boot', async () => {
    const address = await host.run('fsource')
    await shell(address, 'echo kept > /root/file')
    const snapshot = await host.client.snapshot({
      sandboxId: 'fsource',
      snapshotId: 'files-1',
      memory: false,
    })
    expect(snapshot.hasMemory).toBe(false)
    const copy = await host.run('fcopy', { snapshotId: 'files-1' })
    expect(await shell(copy, 'cat /root/file')).toBe('kept')
    await host.client.deleteSnapshot({ snapshotId: 'files-1' })
    await Promise.all(['fsource', 'fcopy'].map((sandboxId) => host.client.stop({ sandboxId })))
  })
})

describe('SIGKILL of the host', () => {
  it('leaves paused sandboxes paused and running ones running', async () => {
    const address = await host.run('alive')
    const before = await startCounter(address)
    await host.run('kept')
    const { snapshotId } = await pause('kept')
    await host.kill()
    await host.start()
    expect(await host.address('alive')).toBe(address)
    expect((await counted(address)).pid).toBe(before.pid)
    expect((await host.client.list({})).paused).toMatchObject([{ sandboxId: 'kept', snapshotId }])
    await resume('kept', snapshotId)
    await Promise.all(['alive', 'kept'].map((sandboxId) => host.client.stop({ sandboxId })))
  })

  it.each(['pause', 'resume', 'snapshot'] as const)('in the middle of a %s loses nothing', async (kind) => {
    let address = await host.run('victim')
    const before = await startCounter(address)
    for (const afterMs of [20, 80, 200, 400]) {
      let snapshotId = ''
      if (kind === 'resume') snapshotId = (await pause('victim')).snapshotId
      const acting =
        kind === 'pause'
          ? pause('victim')
          : kind === 'resume'
            ? resume('victim', snapshotId)
            : host.client.snapshot({ sandboxId: 'victim', snapshotId: `mid-${afterMs}` })
      acting.catch(() => {})
      await new Promise((resolve) => setTimeout(resolve, afterMs))
      await host.kill()
      await host.start()
      const [paused] = (await host.client.list({})).paused
      const running = await host.address('victim')
      expect(Boolean(paused) !== Boolean(running)).toBe(true)
      address = running ?? (await resume('victim', paused!.snapshotId))
      expect(await counted(address)).toMatchObject({ pid: before.pid, hash: before.hash })
      await host.client.deleteSnapshot({ snapshotId: `mid-${afterMs}` })
    }
    await host.client.stop({ sandboxId: 'victim' })
  })
})
