/** A server with another runsc than the sandboxes that it finds. */
import { globSync, readFileSync, writeFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { shell } from '../system/harness/test-host.ts'
import { EngineHost } from './engine-host.ts'
import { enginesUnderTest } from './engines-under-test.ts'

const FIRST_BOOT_MS = 120_000

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
    const [record] = globSync(`${host.runDir}/slots/*/runsc.json`)
    const runsc = JSON.parse(readFileSync(record!, 'utf8')) as { path: string; version: string }
    await host.kill()
    writeFileSync(record!, JSON.stringify({ ...runsc, version: 'release-20260101.0' }))
    await under.start()
    await expect(under.pause('older')).rejects.toThrow(/runsc release-20260101/)
    expect(await host.address('older')).toBe(address)
    const snapshotId = await under.pause('older', false)
    address = await under.run('older', { snapshotId, consumeSnapshot: true, memory: false })
    expect(await shell(address, 'cat /root/file')).toBe('kept')
    await under.stop('older')
  })
})
