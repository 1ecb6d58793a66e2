/** Traffic that an engine must carry as it is, whatever stands between the guest and the world. */
import { execFileSync } from 'node:child_process'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openTestInternet, type TestInternet } from '../../packages/host/src/network/testing/test-internet.ts'
import { shell } from '../system/harness/test-host.ts'
import { describeEngines, EngineHost } from './engine-host.ts'

/** Long enough for an engine that emulates its guests, on a machine that does something else too. */
const FIRST_BOOT_MS = 400_000
const server = '9.9.9.9'

describeEngines('network', (engine) => {
  const under = new EngineHost(engine)
  const { host } = under
  let internet: TestInternet
  beforeAll(async () => {
    internet = await openTestInternet({ name: 'engnet', link: '203.0.113', addresses: [server], names: {} })
    await under.start()
  }, FIRST_BOOT_MS)
  afterAll(async () => {
    await host.dispose()
    await internet.close()
  }, FIRST_BOOT_MS)

  it('large packets meet a narrower link, and the answer that says so finds its connection', async () => {
    // As a tunnel or a virtual machine has them: this machine then answers "fragmentation needed".
    execFileSync('ip', ['link', 'set', 'engnetw', 'mtu', '1300'])
    const address = await under.run('large')
    const sent = await shell(
      address,
      `head -c 200000 /dev/zero > /tmp/body
curl -s -m 15 -o /dev/null -w '%{http_code} %{size_upload}' -H 'Expect:' --data-binary @/tmp/body http://${server}/`,
    )
    expect(sent).toBe('200 200000')
    await under.stop('large')
  })

  it('carries UDP and answers to it', async () => {
    const address = await under.run('datagrams')
    await shell(address, `bash -c 'echo over-udp > /dev/udp/${server}/9999'`)
    await expect.poll(() => internet.lines.join('\n')).toContain('over-udp')
    await under.stop('datagrams')
  })
})
