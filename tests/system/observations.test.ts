import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Sandbox } from 'e2b'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { apiRequest, useTestServer } from './harness/clients.ts'
import { createTestServer, type TestServer } from './harness/server.ts'

/** Logs and metrics of real sandboxes: what agents report, what survives, what is told of pauses. */

interface Line {
  timestamp: string
  level: string
  message: string
  fields: Record<string, string>
}

async function read<T>(path: string): Promise<T> {
  const answer = await apiRequest(path)
  expect(answer.status).toBe(200)
  return (await answer.json()) as T
}
const linesOf = async (id: string, query = '?direction=forward'): Promise<Line[]> =>
  (await read<{ logs: Line[] }>(`/v2/sandboxes/${id}/logs${query}`)).logs
const messagesOf = async (id: string, query?: string): Promise<string[]> =>
  (await linesOf(id, query)).map(({ message }) => message)
const stateOf = async (id: string): Promise<string> =>
  (await read<{ state: string }>(`/sandboxes/${id}`)).state

describe('logs and metrics', () => {
  let server: TestServer
  beforeAll(async () => {
    server = createTestServer(1, { E2B_POOL_MAX: '1', E2B_POOL_MIN: '1' })
    await server.start()
    useTestServer(server.clientEnv)
  })
  afterAll(async () => {
    await server.dispose()
  })

  it('a sandbox finds its host, whatever it may reach besides, and speaks under its own name', async () => {
    const sandbox = await Sandbox.create('base', { allowInternetAccess: false })
    const me = JSON.stringify({ sandboxID: sandbox.sandboxId })
    const ask = 'curl -s $E2B_EVENTS_ADDRESS/me && cat /run/e2b/.E2B_EVENTS_ADDRESS'
    expect((await sandbox.commands.run(ask)).stdout).toBe(`${me}http://192.0.2.1`)
    expect((await sandbox.commands.run('curl -s http://events.e2b.local/me')).stdout).toBe(me)
    const said = JSON.stringify({
      message: 'Said by itself',
      level: 'warn',
      instanceID: 'iother',
      user: 'me',
    })
    await sandbox.commands.run(`curl -s -d '${said}' $E2B_EVENTS_ADDRESS/logs`)
    await expect
      .poll(() => linesOf(sandbox.sandboxId, '?level=warn'), { timeout: 5_000 })
      .toMatchObject([{ message: 'Said by itself', level: 'warn', fields: { user: 'me', service: 'envd' } }])
    await sandbox.kill()
  })

  it("the agent's processes and files are in the log, in both versions, and a fork begins with none", async () => {
    const sandbox = await Sandbox.create('base')
    const { sandboxId } = sandbox
    await sandbox.commands.run('exit 3').catch(() => {})
    await sandbox.files.write('/tmp/noted', 'unnoted content')
    await expect.poll(() => messagesOf(sandboxId, '?search=File'), { timeout: 5_000 }).toEqual(['File write'])
    const lines = await linesOf(sandboxId)
    expect(lines.map(({ message }) => message)).toEqual([
      'Sandbox created',
      'Process started',
      'Process ended',
      'File write',
    ])
    expect(lines[1]?.fields).toMatchObject({ logger: 'process', user: 'user', cmd: '/bin/bash -l -c exit 3' })
    expect(lines[2]?.fields).toMatchObject({ exit_code: '3', pid: lines[1]?.fields.pid })
    expect(JSON.stringify(lines)).not.toContain('unnoted')
    const old = await read<{ logs: { line: string }[]; logEntries: Line[] }>(`/sandboxes/${sandboxId}/logs`)
    expect(old.logEntries).toEqual(lines)
    expect(old.logs.map(({ line }) => JSON.parse(line).message)).toEqual(lines.map(({ message }) => message))

    const fork = await apiRequest(`/sandboxes/${sandboxId}/fork`, { method: 'POST', body: '{}' })
    const [{ sandbox: child }] = (await fork.json()) as [{ sandbox: { sandboxID: string } }]
    const second = await Sandbox.connect(child.sandboxID)
    await second.commands.run('true')
    await expect.poll(() => messagesOf(child.sandboxID), { timeout: 5_000 }).toContain('Process ended')
    expect(await messagesOf(child.sandboxID, '?search=exit 3')).toEqual([])
    await sandbox.commands.run('true')
    await expect.poll(() => messagesOf(sandboxId, '?search=Process'), { timeout: 5_000 }).toHaveLength(4)
    await Promise.all([sandbox.kill(), second.kill()])
  })

  it('a server killed with SIGKILL comes back with logs and metrics, and the agent goes on', async () => {
    const sandbox = await Sandbox.create('base', { timeoutMs: 300_000 })
    const { sandboxId } = sandbox
    await sandbox.commands.run('true')
    await expect.poll(() => messagesOf(sandboxId), { timeout: 5_000 }).toHaveLength(3)
    const samples = () => read<{ timestampUnix: number }[]>(`/sandboxes/${sandboxId}/metrics`)
    await expect.poll(async () => (await samples()).length, { timeout: 15_000 }).toBeGreaterThan(0)
    const before = { samples: await samples(), lines: await linesOf(sandboxId) }
    await server.kill()
    await server.start()
    expect(await linesOf(sandboxId)).toEqual(before.lines)
    expect(await samples()).toEqual(expect.arrayContaining(before.samples))
    await sandbox.commands.run('true')
    await expect.poll(() => messagesOf(sandboxId), { timeout: 10_000 }).toHaveLength(5)

    await sandbox.pause()
    await Sandbox.connect(sandboxId)
    await sandbox.commands.run('true')
    await expect.poll(() => messagesOf(sandboxId), { timeout: 10_000 }).toHaveLength(9)
    expect((await messagesOf(sandboxId)).slice(5, 7)).toEqual(['Sandbox paused', 'Sandbox resumed'])
    await sandbox.kill()
    expect(await messagesOf(sandboxId, '?direction=backward&limit=1')).toEqual(['Sandbox killed'])
  })

  it('a pause at the end of its time is seen from its beginning; a connect waits for it and resumes', async () => {
    const options = { timeoutMs: 2_000, lifecycle: { onTimeout: 'pause' } } as const
    const sandbox = await Sandbox.create('base', options)
    const data = 'python3 -c "import os,time; d=os.urandom(300<<20); time.sleep(1000)"'
    await sandbox.commands.run(data, { background: true, timeoutMs: 0 })
    // Without a mode it is not over: nothing else shows a pause that is under way.
    const seen = () => read<{ state: string; pauseMode?: string }>(`/sandboxes/${sandbox.sandboxId}`)
    let shown = await seen()
    while (shown.state === 'running') shown = await seen()
    expect(shown).toMatchObject({ state: 'paused' })
    expect(shown.pauseMode).toBe(undefined)
    const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 60_000 })
    expect((await again.commands.run('pgrep -c python3')).stdout.trim()).toBe('1')
    expect(await messagesOf(sandbox.sandboxId, '?direction=forward&search=Sandbox')).toEqual([
      'Sandbox created',
      'Sandbox paused',
      'Sandbox resumed',
    ])
    await again.kill()
  })

  it('a pause at the end of its time that fails is told, tried again, and leaves the sandbox running', async () => {
    const snapshots = join(server.config.stateDir, 'snapshots')
    const aside = `${snapshots}.aside`
    const sandbox = await Sandbox.create('base', { timeoutMs: 2_000, lifecycle: { onTimeout: 'pause' } })
    renameSync(snapshots, aside)
    writeFileSync(snapshots, '')
    try {
      await expect
        .poll(() => messagesOf(sandbox.sandboxId, '?level=error&search=not paused'), { timeout: 10_000 })
        .toHaveLength(1)
    } finally {
      rmSync(snapshots)
      renameSync(aside, snapshots)
    }
    expect((await sandbox.commands.run('echo alive')).stdout).toBe('alive\n')
    expect(await stateOf(sandbox.sandboxId)).toBe('running')
    await expect.poll(() => stateOf(sandbox.sandboxId), { timeout: 20_000 }).toBe('paused')
    await sandbox.kill()
  })
})
