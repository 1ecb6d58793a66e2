import { once } from 'node:events'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { probeSlot } from '../probe.ts'
import { FirecrackerMonitor } from './firecracker.ts'
import { JAIL, jailRoot } from './firecracker-jail.ts'

/** A request may take 200 ms then, and a snapshot 2,400. */
const TIME_SCALE = 0.02
const WRITES_MS = 400

test('one that still writes a snapshot, whoever asked for it, is waited for', async () => {
  const jailsDir = mkdtempSync(join(tmpdir(), 'jails-'))
  onTestFinished(() => rmSync(jailsDir, { recursive: true }))
  const machine = { slot: probeSlot(0, 0, [], ''), directory: jailsDir, process: { pid: 1, startTime: 1 } }
  const monitor = new FirecrackerMonitor({
    ...{ firecrackerPath: '', jailerPath: '', jailsDir, cgroupVersion: 2, mountIntoPath: '' },
    rateLimits: {},
    timeScale: TIME_SCALE,
  })
  const server = createServer((_request, answer) => setTimeout(() => answer.writeHead(204).end(), WRITES_MS))
  onTestFinished(() => void server.close().closeAllConnections())
  mkdirSync(jailRoot({ jailsDir }, machine.slot), { recursive: true })
  server.listen(join(jailRoot({ jailsDir }, machine.slot), JAIL.control))
  await once(server, 'listening')
  await expect(monitor.resume(machine)).rejects.toThrow(/abort|timeout/i)
  await monitor.resume(machine, { afterCapture: true })
})
