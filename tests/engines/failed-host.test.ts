/** A host that does not come up: what it made until then goes when the test gives it up. */
import { existsSync, readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { takeInventory } from '../system/harness/leftovers.ts'
import { TestHost } from '../system/harness/test-host.ts'
import { HOST_INDEX } from './engine-host.ts'

it('leaves nothing, and says why it did not come up', async () => {
  const host = new TestHost(HOST_INDEX)
  const settings = {
    E2B_ISOLATION: 'microvm',
    E2B_MICROVM_MONITOR: 'firecracker',
    E2B_FIRECRACKER: '/nowhere',
  }
  await expect(host.start(settings)).rejects.toThrow(/the host ended with .*microvm/s)
  await host.dispose()
  await host.dispose()
  expect(Object.values(takeInventory(host)).filter((count) => count > 0)).toEqual([])
  expect([host.runDir, host.stateDir].filter(existsSync)).toEqual([])
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(host.runDir)
})
