/** Sandboxes whose runsc is another than the server's, is gone, or takes too long. */
import { globSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { shell } from '../system/harness/test-host.ts'
import { EngineHost } from './engine-host.ts'
import { enginesUnderTest } from './engines-under-test.ts'
import { leftovers } from './leftovers.ts'

const FIRST_BOOT_MS = 120_000

/** Stands still at once, and says so when nobody waits any more. */
const SLOW_PAUSE = (runsc: string): string => `#!/bin/sh
${runsc} "$@" || exit
case " $* " in *' pause '*) sleep 17 ;; esac
`

const engine = enginesUnderTest.find(({ name }) => name === 'gvisor')!

// The suites for all engines say so when it is not installed.
describe.skipIf(engine.missing !== undefined)('gvisor: another version', () => {
  const under = new EngineHost(engine)
  const { host } = under
  beforeAll(() => under.start(), FIRST_BOOT_MS)
  afterAll(() => host.dispose(), FIRST_BOOT_MS)

  it('keeps the files of a sandbox, and refuses to keep memory that nothing could restore', async () => {
    let address = await under.run('older')
    await shell(address, 'echo kept > /root/file')
    await host.kill()
    changeRunsc({ version: 'release-20260101.0' })
    await under.start()
    await expect(under.pause('older')).rejects.toThrow(/runsc release-20260101/)
    expect(await host.address('older')).toBe(address)
    const snapshotId = await under.pause('older', false)
    address = await under.run('older', { snapshotId, consumeSnapshot: true, memory: false })
    expect(await shell(address, 'cat /root/file')).toBe('kept')
    await under.stop('older')
  })

  it('adopts a sandbox whose runsc is gone', async () => {
    const address = await under.run('orphan')
    await host.kill()
    changeRunsc({ path: '/no/runsc' })
    await under.start()
    expect(await host.address('orphan')).toBe(address)
    expect(await shell(address, 'echo lives')).toBe('lives')
    await under.stop('orphan')
    await expect.poll(() => leftovers(host)).toEqual({ processes: 0, mounts: 0, journalEntries: 0 })
  })

  it('lets a sandbox go on that stands still too late to be paused', async () => {
    const address = await under.run('late')
    const { path } = changeRunsc({})
    const slow = join(host.stateDir, 'slow-runsc')
    writeFileSync(slow, SLOW_PAUSE(path), { mode: 0o755 })
    changeRunsc({ path: slow })
    await expect(under.pause('late')).rejects.toThrow(/keeps running: it did not stand still/)
    expect(await shell(address, 'echo lives')).toBe('lives')
    changeRunsc({ path })
    const snapshotId = await under.pause('late')
    const again = await under.run('late', { snapshotId, consumeSnapshot: true })
    expect(await shell(again, 'echo lives')).toBe('lives')
    await under.stop('late')
  }, 60_000)

  /** Of the only sandbox there is. @returns what it was */
  function changeRunsc(changes: { path?: string; version?: string }): { path: string; version: string } {
    const [record] = globSync(`${host.runDir}/slots/*/runsc.json`)
    const runsc = JSON.parse(readFileSync(record!, 'utf8')) as { path: string; version: string }
    writeFileSync(record!, JSON.stringify({ ...runsc, ...changes }))
    return runsc
  }
})
