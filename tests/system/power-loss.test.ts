import { Sandbox, SandboxNotFoundError } from 'e2b'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { useTestServer } from './harness/clients.ts'
import { takeInventory } from './harness/leftovers.ts'
import { TestMachine } from './harness/machine.ts'

/** Holds some memory of its own, known by its hash, and tells of it over HTTP. */
const HOLDER = `
import hashlib, http.server, os
data = os.urandom(64 << 20)
class Handler(http.server.BaseHTTPRequestHandler):
  def do_GET(self):
    fresh = hashlib.sha256(data).hexdigest()
    self.send_response(200)
    self.end_headers()
    self.wfile.write(f'{os.getpid()} {fresh}'.encode())
  def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', 7000), Handler).serve_forever()
`

const output = async (sandbox: Sandbox, command: string): Promise<string> =>
  (await sandbox.commands.run(command)).stdout.trim()

const held = (sandbox: Sandbox): Promise<string> => output(sandbox, 'curl -s http://127.0.0.1:7000/')

/** A sandbox with a process that holds memory, and a file of 8 MiB; answers both as they are. */
async function furnished(): Promise<{ sandbox: Sandbox; memory: string; files: string }> {
  const sandbox = await Sandbox.create('base', { timeoutMs: 300_000 })
  await sandbox.files.write('holder.py', HOLDER)
  await sandbox.commands.run('setsid -f python3 holder.py >/dev/null 2>&1 </dev/null')
  await expect.poll(() => held(sandbox).catch(() => '')).not.toBe('')
  await sandbox.commands.run('head -c 8M /dev/urandom > random')
  return { sandbox, memory: await held(sandbox), files: await output(sandbox, 'sha256sum random') }
}

describe('a machine that loses power', () => {
  let machine: TestMachine
  beforeAll(async () => {
    machine = new TestMachine(5)
    await machine.boot()
    useTestServer(machine.clientEnv)
  })
  afterAll(async () => {
    await machine.dispose()
  })

  const listed = async (): Promise<Record<string, string>> => {
    const found = await Sandbox.list({ query: { state: ['running', 'paused'] } }).nextItems()
    return Object.fromEntries(found.map(({ sandboxId, state }) => [sandboxId, state]))
  }

  it('has what was paused or kept when it comes back, to the byte, and tells that what ran is gone', async () => {
    const full = await furnished()
    const filesOnly = await furnished()
    const source = await furnished()
    const running = await furnished()
    const boot = await output(full.sandbox, 'cat /proc/sys/kernel/random/boot_id')
    const { snapshotId } = await source.sandbox.createSnapshot()
    await filesOnly.sandbox.pause({ keepMemory: false })
    await full.sandbox.pause()
    await machine.losePower()
    await machine.boot()
    const { sandboxId } = full.sandbox
    await expect.poll(listed).toEqual({ [sandboxId]: 'paused', [filesOnly.sandbox.sandboxId]: 'paused' })
    await expect(Sandbox.connect(running.sandbox.sandboxId)).rejects.toThrow(SandboxNotFoundError)
    const { sandboxProcesses, roots, journalEntries } = takeInventory(machine.config)
    expect({ sandboxProcesses, roots, journalEntries }).toEqual({
      sandboxProcesses: 0,
      roots: 0,
      journalEntries: 0,
    })

    const back = await Sandbox.connect(sandboxId)
    expect(await held(back)).toBe(full.memory)
    expect(await output(back, 'sha256sum random')).toBe(full.files)
    expect(await output(back, 'cat /proc/sys/kernel/random/boot_id')).toBe(boot)
    const booted = await Sandbox.connect(filesOnly.sandbox.sandboxId)
    expect(await output(booted, 'sha256sum random')).toBe(filesOnly.files)
    const copy = await Sandbox.create(snapshotId, { timeoutMs: 300_000 })
    expect(await held(copy)).toBe(source.memory)
    expect(await output(copy, 'sha256sum random')).toBe(source.files)
    await Promise.all([back, booted, copy].map((sandbox) => sandbox.kill()))
  })

  it('at any instant of a pause loses the sandbox as a whole or keeps it as a whole', async () => {
    for (const afterMs of [40, 150, 300, 450]) {
      const { sandbox, memory, files } = await furnished()
      let answered = false
      sandbox.pause().then(
        () => {
          answered = true
        },
        () => {},
      )
      await new Promise((resolve) => setTimeout(resolve, afterMs))
      const wasAnswered = answered
      await machine.losePower()
      await machine.boot()
      const state = (await listed())[sandbox.sandboxId]
      if (wasAnswered) expect(state).toBe('paused')
      if (state !== undefined) {
        expect(state).toBe('paused')
        const back = await Sandbox.connect(sandbox.sandboxId)
        expect(await held(back)).toBe(memory)
        expect(await output(back, 'sha256sum random')).toBe(files)
        await back.kill()
      }
      expect(await listed()).toEqual({})
    }
  }, 120_000)
})
