import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import {
  CLONE_NEWNET,
  createNamespaceAt,
  inNetworkNamespace,
} from '../../packages/host/src/linux/namespace.ts'
import { run } from '../../packages/host/src/linux/process.ts'
import type { Certificates } from './certificates.ts'
import { DOMAIN, INTERNET_ADDRESS, MACHINE_ADDRESS, PUBLIC_ADDRESS, RESOLVER, SITES } from './plan.ts'

const NAMESPACE = '/run/netns/internet'
const HTTPS_PORT = 443

/**
 * Puts an internet behind the network namespace of this process, which must be a fresh one: web servers, a resolver,
 * and a public address of the domain that leads back to this machine. It goes when the namespaces do.
 */
export async function openInternet(certificates: Certificates): Promise<{ close(): Promise<void> }> {
  mkdirSync('/run/netns', { recursive: true })
  createNamespaceAt('net', CLONE_NEWNET, NAMESPACE)
  await ip(`link set lo up
link add wan type veth peer name up0 netns ${NAMESPACE}
address add ${MACHINE_ADDRESS}/30 dev wan
link set wan up
route add default via ${INTERNET_ADDRESS}`)
  const addresses = [RESOLVER, PUBLIC_ADDRESS, ...SITES.map(({ address }) => address)]
  const child = await inInternet(certificates, addresses)
  return {
    async close() {
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    },
  }
}

async function inInternet(certificates: Certificates, addresses: readonly string[]): Promise<ChildProcess> {
  await inNetworkNamespace(NAMESPACE, () =>
    ip(`link set lo up
${addresses.map((address) => `address add ${address}/32 dev lo`).join('\n')}
address add ${INTERNET_ADDRESS}/30 dev up0
link set up0 up
route add default via ${MACHINE_ADDRESS}`),
  )
  await inNetworkNamespace(NAMESPACE, () => run('nft', ['-f', '-'], { stdin: translation }))
  const settings = {
    resolver: RESOLVER,
    suffix: DOMAIN,
    suffixAddress: PUBLIC_ADDRESS,
    sites: SITES,
    ...certificates.internet,
  }
  const program = join(import.meta.dirname, 'internet-servers.ts')
  const child = inNetworkNamespace(NAMESPACE, () =>
    spawn(process.execPath, [program, JSON.stringify(settings)], { stdio: ['ignore', 'pipe', 'inherit'] }),
  )
  const early = once(child, 'exit').then(() =>
    Promise.reject(new Error("the internet's servers ended early")),
  )
  early.catch(() => {})
  await Promise.race([once(child.stdout!, 'data'), early])
  return child
}

/** As a load balancer in front of the machine does; the machine itself is reached that way, too. */
const translation = `
table ip balancer {
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr ${PUBLIC_ADDRESS} tcp dport ${HTTPS_PORT} dnat to ${MACHINE_ADDRESS}
  }
  chain leaving {
    type nat hook postrouting priority srcnat; policy accept;
    ip daddr ${MACHINE_ADDRESS} tcp dport ${HTTPS_PORT} masquerade
  }
}
`

const ip = (commands: string): Promise<unknown> => run('ip', ['-batch', '-'], { stdin: `${commands}\n` })
