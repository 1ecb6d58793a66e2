import { pino } from 'pino'
import type { Config } from '../config.ts'
import { openHostRole } from '../host-role.ts'

/**
 * Ends every sandbox of this instance and removes its kernel objects; databases and images stay.
 * @throws HostError when a server of this instance runs: end that first
 */
export async function teardown(config: Config): Promise<void> {
  const role = await openHostRole(config, pino({ level: 'warn', base: null }, pino.destination(2)), {
    mayServeNothing: true,
  })
  await role.host.close({ keepSandboxes: false })
  process.stdout.write(`Nothing of instance ${config.instance} is left in the kernel.\n`)
}
