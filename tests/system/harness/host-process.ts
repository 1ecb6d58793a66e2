import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { connectNodeAdapter } from '@connectrpc/connect-node'
import { pino } from 'pino'
import { loadConfig } from '../../../packages/server/src/config.ts'
import { openHostRole } from '../../../packages/server/src/host-role.ts'

/** A host alone in a process of its own, which a test may SIGKILL. Prints the port of its service. */
const { host } = await openHostRole(loadConfig(), pino({ level: 'info' }, pino.destination(2)))
const server = createServer(connectNodeAdapter({ routes: (router) => host.routes(router) }))
server.listen(0, '127.0.0.1', () => {
  process.stdout.write(`Ready ${(server.address() as AddressInfo).port}\n`)
})
process.once('SIGTERM', async () => {
  server.closeAllConnections()
  server.close()
  await host.close({ keepSandboxes: process.env.E2B_ON_SHUTDOWN !== 'kill' })
  process.exit(0)
})
