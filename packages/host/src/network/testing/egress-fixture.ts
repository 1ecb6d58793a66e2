import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inNetworkNamespace } from '../../linux/namespace.ts'
import { run } from '../../linux/process.ts'
import type { SlotNaming } from '../../slots/slots.ts'
import { DnsForwarder } from '../dns.ts'
import { EgressAuthority } from '../egress-authority.ts'
import { EgressProxyServer } from '../egress-proxy.ts'
import { HeaderTransforms } from '../header-transforms.ts'
import { NetworkSlots } from '../network-slots.ts'
import { parseNetworkPolicy } from '../policy.ts'
import { openTestInternet, type TestInternet } from './test-internet.ts'

export const one = '198.51.100.1'
export const two = '198.51.100.2'
export const three = '198.51.100.3'
export const google = '8.8.8.8'
export const all = ['0.0.0.0/0']

export interface Want {
  kind: 'http' | 'tls' | 'hello' | 'udp' | 'raw'
  address: string
  port?: number
  name?: string
  slow?: boolean
  size?: number
  bytes?: string
  timeout?: number
}

export const http = (address: string, name?: string): Want => ({
  kind: 'http',
  address,
  ...(name ? { name } : {}),
})
export const tls = (address: string, name?: string): Want => ({
  kind: 'tls',
  address,
  ...(name ? { name } : {}),
})
export const udp = (address: string): Want => ({ kind: 'udp', address })

/** Slots 0 and 1 with firewall, resolver and proxy, and an internet of their own behind this machine. */
export interface EgressFixture {
  readonly naming: SlotNaming
  readonly slots: NetworkSlots
  readonly proxy: EgressProxyServer
  readonly internet: TestInternet
  /** What slot 0 has to trust where rules set headers, PEM. */
  readonly authorityPem: string
  /** A private address that answers as the public ones do. */
  readonly inner: string
  /** What slot 0 gets for each: the address that answered, other text, or `denied`. */
  probe(...wants: Want[]): Promise<string[]>
  /** Replaces the policy of slot 0. */
  apply(config: object, internetAccess?: boolean): Promise<void>
  close(): Promise<void>
}

/** @param letter tells fixtures of several test files apart */
export async function openEgressFixture(letter: string): Promise<EgressFixture> {
  const instance = `${letter}${process.pid.toString(36)}`
  const octet = 200 + (process.pid % 40)
  const inner = `172.16.${octet}.9`
  const runDir = mkdtempSync(join(tmpdir(), 'egress-'))
  const naming = { instance, addressRange: `10.${octet}.0.0/16`, uidBase: 0x7400_0000, runDir }
  const internet = await openTestInternet({
    name: `${instance}o`,
    link: `203.0.${octet}`,
    addresses: [one, two, three, google, inner],
    names: {
      'good.test': [one],
      'www.good.test': [two],
      'bad.test': [three],
      'inner.test': [inner],
      'mixed.test': [inner, one],
      'self.test': [`203.0.${octet}.1`],
    },
  })
  const slots = new NetworkSlots(naming)
  await slots.start()
  await slots.prepare(0)
  await slots.prepare(1)
  const authority = await EgressAuthority.open(runDir)
  const { dns, proxy } = await startServers(slots, new HeaderTransforms(authority, internet.cert))
  return {
    naming,
    slots,
    proxy,
    internet,
    authorityPem: authority.certPem,
    inner,
    probe: (...wants) => probe(slots.netnsPath(0), wants),
    apply: (config, internetAccess = true) =>
      slots.replacePolicy(0, parseNetworkPolicy(JSON.stringify(config), internetAccess)),
    async close() {
      await proxy.stop()
      await dns.stop()
      await slots.remove()
      await internet.close()
      rmSync(runDir, { recursive: true })
    },
  }
}

async function startServers(
  slots: NetworkSlots,
  transforms: HeaderTransforms,
): Promise<{ dns: DnsForwarder; proxy: EgressProxyServer }> {
  const upstreams = [{ address: two, port: 53 }]
  const { forbiddenRanges, dnsEndpoint, egressEndpoint } = slots
  const dns = new DnsForwarder({
    ...dnsEndpoint,
    upstreams,
    resolversOf: (at) => slots.egressOf(at)?.resolvers,
  })
  const proxy = new EgressProxyServer({
    ...egressEndpoint,
    egressOf: (at) => slots.egressOf(at),
    forbiddenRanges,
    upstreams,
    maxConnectionsPerClient: 8,
    nameTimeoutMs: 500,
    connectTimeoutMs: 1_000,
    transforms,
  })
  await dns.start()
  await proxy.start()
  return { dns, proxy }
}

async function probe(netns: string, wants: readonly Want[]): Promise<string[]> {
  const script = join(import.meta.dirname, 'probe.py')
  const { stdout } = await inNetworkNamespace(netns, () => run('python3', [script, JSON.stringify(wants)]))
  return (JSON.parse(stdout) as string[]).map((text) => {
    try {
      return (JSON.parse(text) as { at: string }).at
    } catch {
      return text
    }
  })
}
