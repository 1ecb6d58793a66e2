import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import type { Config } from '../../packages/server/src/config.ts'
import { findRunsc } from '../../packages/server/src/engines/gvisor.ts'
import { gvisorInstaller } from '../../packages/server/src/engines/install-gvisor.ts'

/**
 * gVisor's runsc for tests: the one of this machine, else a copy of the tests' own, built where Go is, so that a server
 * of this machine keeps the engine that it has. Undefined: there is none, and no Go.
 */
export async function ensureRunsc(
  config: Config,
  say: (line: string) => void,
): Promise<{ path: string; isOwn: boolean } | undefined> {
  const found = await findRunsc(config)
  if (found) return { path: found.path, isOwn: false }
  const own = { ...config, imagesDir: join(config.stateDir, 'cache', 'test-engines') }
  if (!(await findRunsc(own))) {
    if (spawnSync('go', ['version']).status !== 0) return undefined
    await gvisorInstaller.install(own, say)
  }
  return { path: (await findRunsc(own))!.path, isOwn: true }
}
