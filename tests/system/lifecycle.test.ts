import { Sandbox, SandboxNotFoundError, type SandboxOpts } from 'e2b'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { apiRequest, useTestServer } from './harness/clients.ts'
import { createTestServer, type TestServer } from './harness/server.ts'

/** The whole life of sandboxes through the official client, on a server that is also restarted. */

let server: TestServer
const made: string[] = []

beforeAll(async () => {
  server = createTestServer(6, { E2B_POOL_MAX: '0' })
  await server.start()
  useTestServer(server.clientEnv)
})
afterEach(async () => {
  await Promise.all(made.splice(0).map((id) => Sandbox.kill(id)))
})
afterAll(async () => {
  await server.dispose()
})

async function create(options: SandboxOpts = {}): Promise<Sandbox> {
  const sandbox = await Sandbox.create('base', { timeoutMs: 120_000, ...options })
  made.push(sandbox.sandboxId)
  return sandbox
}

const output = async (sandbox: Sandbox, command: string): Promise<string> =>
  (await sandbox.commands.run(command)).stdout.trim()
const bootId = (sandbox: Sandbox) => output(sandbox, 'cat /proc/sys/kernel/random/boot_id')
const stateOf = async (id: string): Promise<string> => (await Sandbox.getInfo(id)).state

/**
 * A server on port 8000 that says what it was started with. No stream to it stays open: the client asks after the
 * health of a sandbox whose stream broke, which would wake it.
 */
async function serve(sandbox: Sandbox, text: string): Promise<void> {
  await sandbox.files.write('/home/user/www/index.html', text)
  await sandbox.commands.run('setsid -f python3 -m http.server -d /home/user/www 8000 >/dev/null 2>&1')
  await expect
    .poll(() => fetch(`https://${sandbox.getHost(8000)}/`).then((answer) => answer.status))
    .toBe(200)
}

describe('pause and resume', () => {
  it('keeps process ids, environment, files and listeners', async () => {
    const sandbox = await create({ envs: { MARK: 'kept' }, metadata: { a: 'b' } })
    const process = await sandbox.commands.run('sleep 1000', { background: true })
    await serve(sandbox, 'before')
    await sandbox.files.write('note.txt', 'written')
    const boot = await bootId(sandbox)
    expect(await sandbox.pause()).toBe(true)
    expect(await sandbox.pause()).toBe(false)
    expect(await sandbox.isRunning()).toBe(false)
    expect(await stateOf(sandbox.sandboxId)).toBe('paused')
    const back = await Sandbox.connect(sandbox.sandboxId)
    expect(await output(back, `ps -o comm= -p ${process.pid}`)).toBe('sleep')
    expect(await output(back, 'echo $MARK')).toBe('kept')
    expect(await back.files.read('note.txt')).toBe('written')
    expect(await bootId(back)).toBe(boot)
    expect(await (await fetch(`https://${back.getHost(8000)}/`)).text()).toBe('before')
    expect((await back.getInfo()).metadata).toEqual({ a: 'b' })
  })

  it('of files only boots anew: other boot id, no processes, same files', async () => {
    const sandbox = await create()
    const process = await sandbox.commands.run('sleep 1000', { background: true })
    await sandbox.files.write('note.txt', 'written')
    const boot = await bootId(sandbox)
    await sandbox.pause({ keepMemory: false })
    const shown = await apiRequest(`/sandboxes/${sandbox.sandboxId}`)
    expect(await shown.json()).toMatchObject({ state: 'paused', pauseMode: 'filesystem', domain: null })
    const back = await Sandbox.connect(sandbox.sandboxId)
    expect(await bootId(back)).not.toBe(boot)
    expect(await output(back, `ps -o comm= -p ${process.pid} || echo gone`)).not.toContain('sleep')
    expect(await back.files.read('note.txt')).toBe('written')
  })

  it('with memory boots from its files when the caller asks to', async () => {
    const sandbox = await create()
    await sandbox.files.write('note.txt', 'written')
    const boot = await bootId(sandbox)
    await sandbox.pause()
    const back = await Sandbox.connect(sandbox.sandboxId, { onResume: 'reboot' })
    expect(await bootId(back)).not.toBe(boot)
    expect(await back.files.read('note.txt')).toBe('written')
  })

  it('goes through many rounds', async () => {
    const sandbox = await create()
    await sandbox.files.write('rounds.txt', '')
    const process = await sandbox.commands.run('sleep 1000', { background: true })
    for (let round = 1; round <= 4; round += 1) {
      await sandbox.pause()
      const back = await Sandbox.connect(sandbox.sandboxId)
      await back.commands.run('echo again >> rounds.txt')
      expect((await back.files.read('rounds.txt')).split('\n')).toHaveLength(round + 1)
    }
    expect(await output(sandbox, `ps -o comm= -p ${process.pid}`)).toBe('sleep')
  })

  it('of a killed sandbox is not possible, and a paused one can be killed', async () => {
    const sandbox = await create()
    await sandbox.pause()
    expect(await Sandbox.kill(sandbox.sandboxId)).toBe(true)
    expect(await Sandbox.kill(sandbox.sandboxId)).toBe(false)
    await expect(Sandbox.connect(sandbox.sandboxId)).rejects.toThrow(SandboxNotFoundError)
    await expect(Sandbox.pause(sandbox.sandboxId)).rejects.toThrow(SandboxNotFoundError)
  })

  it('survives a killed server', async () => {
    const paused = await create()
    const filesOnly = await create()
    await paused.files.write('note.txt', 'memory')
    await filesOnly.files.write('note.txt', 'files')
    const process = await paused.commands.run('sleep 1000', { background: true })
    await paused.pause()
    await filesOnly.pause({ keepMemory: false })
    await server.kill()
    await server.start()
    expect(await stateOf(paused.sandboxId)).toBe('paused')
    const back = await Sandbox.connect(paused.sandboxId)
    expect(await output(back, `ps -o comm= -p ${process.pid}`)).toBe('sleep')
    expect(await back.files.read('note.txt')).toBe('memory')
    expect(await (await Sandbox.connect(filesOnly.sandboxId)).files.read('note.txt')).toBe('files')
  })
})

describe('the end of the timeout', () => {
  it('pauses where that was asked for, again after a resume', async () => {
    const sandbox = await create({ timeoutMs: 3_000, lifecycle: { onTimeout: 'pause' } })
    await sandbox.files.write('note.txt', 'written')
    const isPaused = { timeout: 6_000, interval: 200 }
    await expect.poll(() => stateOf(sandbox.sandboxId), isPaused).toBe('paused')
    expect(await sandbox.isRunning()).toBe(false)
    const back = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 3_000 })
    expect(await back.files.read('note.txt')).toBe('written')
    await expect.poll(() => stateOf(sandbox.sandboxId), isPaused).toBe('paused')
  })

  it('traffic to a port wakes the sandbox that it paused', async () => {
    const sandbox = await create({ timeoutMs: 8_000, lifecycle: { onTimeout: 'pause', autoResume: true } })
    await serve(sandbox, 'awake')
    await sandbox.pause()
    const denied = await fetch(`https://${sandbox.getHost(49983)}/health`)
    expect([denied.status, await denied.json()]).toMatchObject([403, { code: 403 }])
    expect(await stateOf(sandbox.sandboxId)).toBe('paused')
    const answers = await Promise.all(
      Array.from({ length: 5 }, async () => (await fetch(`https://${sandbox.getHost(8000)}/`)).text()),
    )
    expect(new Set(answers)).toEqual(new Set(['awake']))
    const { startedAt, endAt } = await sandbox.getInfo()
    expect(endAt.getTime() - startedAt.getTime()).toBe(300_000)
    await sandbox.pause()
    expect(await output(sandbox, 'echo hello')).toBe('hello')
  })
})

describe('forks', () => {
  it('begin with the state of the source and are independent of it and of each other', async () => {
    const source = await create({ envs: { MARK: 'kept' } })
    await source.files.write('who.txt', 'source')
    const process = await source.commands.run('sleep 1000', { background: true })
    const forks = (await source.fork({ count: 2, timeoutMs: 60_000 })).map((fork) => {
      if (fork instanceof Error) throw fork
      made.push(fork.sandboxId)
      return fork
    })
    for (const [index, fork] of forks.entries()) {
      expect(await fork.files.read('who.txt')).toBe('source')
      expect(await output(fork, `ps -o comm= -p ${process.pid}; echo $MARK`)).toBe('sleep\nkept')
      await fork.files.write('who.txt', `fork ${index}`)
    }
    await source.files.write('who.txt', 'still the source')
    expect(await Promise.all(forks.map((fork) => fork.files.read('who.txt')))).toEqual(['fork 0', 'fork 1'])
    const random = await Promise.all(
      [source, ...forks].map((one) => output(one, 'python3 -c "import os; print(os.urandom(8).hex())"')),
    )
    expect(new Set(random).size).toBe(3)
    expect(await output(source, `ps -o comm= -p ${process.pid}`)).toBe('sleep')
  })
})

describe('snapshots', () => {
  it('are made, listed, used and deleted', async () => {
    const source = await create()
    await source.files.write('note.txt', 'snapshot')
    const process = await source.commands.run('sleep 1000', { background: true })
    const snapshot = await source.createSnapshot()
    await source.files.write('note.txt', 'later')
    const listed = await Sandbox.listSnapshots({ sandboxId: source.sandboxId }).nextItems()
    expect(listed.map(({ snapshotId }) => snapshotId)).toEqual([snapshot.snapshotId])
    const copy = await Sandbox.create(snapshot.snapshotId, { timeoutMs: 60_000 })
    made.push(copy.sandboxId)
    expect(await copy.files.read('note.txt')).toBe('snapshot')
    expect(await output(copy, `ps -o comm= -p ${process.pid}`)).toBe('sleep')
    await expect(Sandbox.deleteSnapshot(snapshot.snapshotId)).rejects.toThrow(/400/)
    await copy.kill()
    expect(await Sandbox.deleteSnapshot(snapshot.snapshotId)).toBe(true)
    expect(await Sandbox.deleteSnapshot(snapshot.snapshotId)).toBe(false)
    await expect(Sandbox.create(snapshot.snapshotId)).rejects.toThrow(/404/)
    expect(await source.files.read('note.txt')).toBe('later')
  })
})

describe('what can be observed', () => {
  it('metrics of a running sandbox within ten seconds', async () => {
    const sandbox = await create()
    await expect
      .poll(() => sandbox.getMetrics(), { timeout: 15_000, interval: 500 })
      .toContainEqual(expect.objectContaining({ cpuCount: expect.any(Number), memUsed: expect.any(Number) }))
    const [metric] = await sandbox.getMetrics()
    expect(metric!.memUsed).toBeGreaterThan(0)
    expect(metric!.memTotal).toBeGreaterThan(metric!.memUsed)
    expect(metric!.diskTotal).toBeGreaterThan(0)
    expect(await sandbox.getMetrics({ end: new Date(Date.now() - 3_600_000) })).toEqual([])
  })
})
