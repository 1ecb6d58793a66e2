import { once } from 'node:events'
import { createServer } from 'node:net'
import { Sandbox } from 'e2b'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { useTestServer } from './harness/clients.ts'
import { takeInventory } from './harness/leftovers.ts'
import { createTestServer, type TestServer } from './harness/server.ts'

/** A start that probes an engine whose guest is silent takes its time. */
const THREE_STARTS_MS = 180_000

describe('a server that dies', () => {
  let server: TestServer
  beforeAll(async () => {
    server = createTestServer(2, { E2B_POOL_MAX: '0' })
    await server.start()
    useTestServer(server.clientEnv)
  })
  afterAll(async () => {
    await server.dispose()
  })

  it('comes back with running sandboxes, killed with SIGKILL', async () => {
    const sandbox = await Sandbox.create('base', { timeoutMs: 300_000 })
    const background = await sandbox.commands.run('sleep 1000', { background: true })
    await server.kill()
    await server.start()
    expect(await sandbox.isRunning()).toBe(true)
    const { stdout } = await sandbox.commands.run(`ps -o comm= -p ${background.pid}`)
    expect(stdout.trim()).toBe('sleep')
    await sandbox.kill()
  })

  it('keeps sandboxes over SIGTERM and answers 0', async () => {
    const sandbox = await Sandbox.create('base', { timeoutMs: 300_000 })
    expect(await server.stop()).toBe(0)
    await server.start()
    expect(await sandbox.isRunning()).toBe(true)
    await sandbox.kill()
  })

  it(
    'says why it does not start on a port that is taken, ends, and leaves sandboxes alone',
    async () => {
      const sandbox = await Sandbox.create('base', { timeoutMs: 300_000 })
      await server.stop()
      const squatter = createServer().listen(server.config.proxyPort, '127.0.0.1')
      await once(squatter, 'listening')
      await expect(server.start()).rejects.toThrow(/ended with 1:[\s\S]*EADDRINUSE.*choose another port/)
      squatter.close()
      await server.start()
      expect(await sandbox.isRunning()).toBe(true)
      await sandbox.kill()
    },
    THREE_STARTS_MS,
  )

  it('ends what was due while it was away', async () => {
    const sandbox = await Sandbox.create('base', { timeoutMs: 1_000 })
    await server.kill()
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    await server.start()
    await expect.poll(() => sandbox.isRunning(), { timeout: 5_000 }).toBe(false)
  })

  it('leaves nothing over when killed in the middle of creates', async () => {
    const before = takeInventory(server.config)
    for (let round = 0; round < 4; round++) {
      const creates = Array.from({ length: 6 }, () => Sandbox.create('base', { timeoutMs: 300_000 }))
      const settled = Promise.allSettled(creates)
      await new Promise((resolve) => setTimeout(resolve, 40 + round * 60))
      await server.kill()
      await settled
      await server.start()
      const running = await Sandbox.list().nextItems()
      for (const { sandboxId } of running) {
        const sandbox = await Sandbox.connect(sandboxId)
        expect(await sandbox.isRunning()).toBe(true)
        await sandbox.kill()
      }
    }
    const settled = () => {
      const { sandboxProcesses, roots, journalEntries, namespaces, veths, cgroups } = takeInventory(
        server.config,
      )
      return {
        sandboxProcesses,
        roots,
        journalEntries,
        strayVeths: veths - namespaces,
        hasCgroups: cgroups > 0,
      }
    }
    await expect.poll(settled, { timeout: 15_000 }).toEqual({
      sandboxProcesses: 0,
      roots: 0,
      journalEntries: before.journalEntries,
      strayVeths: 0,
      hasCgroups: true,
    })
  })
})
