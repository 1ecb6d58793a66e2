import assert from 'node:assert/strict'
import {
  openTestInternet,
  type TestInternet,
} from '../../../packages/host/src/network/testing/test-internet.ts'
import type { Case } from './case.ts'
import { type HostUnderTest, RESOLVER, type Running } from './host-under-test.ts'

/** Rules of the network, with a small internet behind the machine. */

const PART = 'network'
const ONE = '1.1.1.1'
const TWO = '9.9.9.9'
const INNER = '10.98.7.6'

let internet: TestInternet
let sandbox: Running

/** The address that answered each, or `denied`. */
async function reach(host: HostUnderTest, { address }: Running, ...urls: string[]): Promise<string[]> {
  return Promise.all(
    urls.map(async (url) => {
      const { output } = await host.run(address, `curl -sk --connect-timeout 15 --max-time 40 ${url} || true`)
      return /"at":"([^"]*)"/.exec(output)?.[1] ?? 'denied'
    }),
  )
}

const rules = (network: Record<string, string[]>): string => JSON.stringify(network)

export const networkCases: Case[] = [
  {
    part: PART,
    name: 'the internet is reached, private addresses are not',
    boot: 0,
    async run(host) {
      const names = { 'one.example': [ONE], 'two.example': [TWO] }
      const addresses = [ONE, TWO, RESOLVER, INNER]
      internet = await openTestInternet({ name: 'emunet', link: '203.0.113', addresses, names })
      sandbox = await host.start()
      const reached = await reach(host, sandbox, `http://${ONE}`, 'http://two.example', `http://${INNER}`)
      assert.deepEqual(reached, [ONE, TWO, 'denied'])
      return {}
    },
  },
  {
    part: PART,
    name: 'rules deny and allow, by address and by name, also while it runs',
    boot: 0,
    async run(host) {
      const { sandboxId } = sandbox
      const set = (network: Record<string, string[]>): Promise<unknown> =>
        host.client.setNetwork({ sandboxId, networkJson: rules(network), allowInternetAccess: true })
      const urls = [`http://${ONE}`, `http://${TWO}`]
      await set({ denyOut: [ONE] })
      assert.deepEqual(await reach(host, sandbox, ...urls), ['denied', TWO])
      await set({ denyOut: ['0.0.0.0/0'], allowOut: [`${ONE}/32`] })
      assert.deepEqual(await reach(host, sandbox, ...urls), [ONE, 'denied'])
      await set({ denyOut: ['0.0.0.0/0'], allowOut: ['one.example'] })
      const byName = await reach(host, sandbox, 'http://one.example', 'http://two.example', urls[1]!)
      assert.deepEqual(byName, [ONE, 'denied', 'denied'])
      return {}
    },
  },
  {
    part: PART,
    name: 'rules outlive a pause, and without internet there is none',
    boot: 0,
    async run(host) {
      const { sandboxId } = sandbox
      const { paused } = await host.client.pause({ sandboxId })
      sandbox = await host.start(paused!.snapshotId, {
        sandboxId,
        consumeSnapshot: true,
        networkJson: rules({ denyOut: [TWO] }),
      })
      assert.deepEqual(await reach(host, sandbox, `http://${ONE}`, `http://${TWO}`), [ONE, 'denied'])
      await host.client.setNetwork({ sandboxId, networkJson: '', allowInternetAccess: false })
      assert.deepEqual(await reach(host, sandbox, `http://${ONE}`, 'http://two.example'), [
        'denied',
        'denied',
      ])
      await host.stop(sandbox)
      await internet.close()
      return {}
    },
  },
]
