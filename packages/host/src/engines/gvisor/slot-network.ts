/**
 * The network of a slot as runsc needs it. The sentry has TCP/IP of its own: runsc takes address, routes and neighbours
 * of a namespace's links for it and reads packets off the links before the kernel there could translate addresses. So
 * it gets a namespace beside the slot's, whose `eth0` is the other end of a link into the slot's.
 */
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileSystemOf } from '../../linux/file-system.ts'
import { unmountIfMounted } from '../../linux/mount.ts'
import { CLONE_NEWNET, createNamespaceAt, inNetworkNamespace } from '../../linux/namespace.ts'
import { gatewayAddress, gatewayMac, guestAddress, guestMac, type Slot } from '../../slots/slots.ts'
import { attachLink, detachLink, inNamespace } from '../slot-attachment.ts'

const LINK = 'sentry0'

/** Makes the sandbox's namespace at `netnsPath`, a file in the slot's directory, and connects it. Idempotent. */
export async function attachNetwork(slot: Slot, netnsPath: string): Promise<void> {
  await detachNetwork(slot, netnsPath)
  createNamespaceAt('net', CLONE_NEWNET, netnsPath)
  inNetworkNamespace(netnsPath, () => {
    for (const which of ['all', 'default']) disableIpv6(which)
  })
  const peer = `peer name eth0 address ${guestMac} netns ${netnsPath}`
  await attachLink(slot, LINK, `link add ${LINK} type veth ${peer}`)
  await inNamespace(netnsPath, [
    'link set lo up',
    `address add ${guestAddress}/30 dev eth0`,
    'link set eth0 up',
    `neigh replace ${gatewayAddress} lladdr ${gatewayMac} dev eth0 nud permanent`,
    `route add default via ${gatewayAddress} dev eth0`,
  ])
}

/** Leaves the slot as every engine expects it. Idempotent, whatever of the above was ever done. */
export async function detachNetwork(slot: Slot, netnsPath: string): Promise<void> {
  await detachLink(slot, LINK)
  unmountIfMounted(netnsPath)
  rmSync(netnsPath, { force: true })
}

/**
 * The network namespace of all file servers, with nothing in it: made once, since each costs milliseconds.
 * @param dir of the instance; the namespace goes with its mounts
 * @returns its path
 */
export function fileServerNetns(dir: string): string {
  const path = join(dir, 'empty-netns')
  if (existsSync(path) && fileSystemOf(path).type === 'nsfs') return path
  // What a daemon left that ended while it made one.
  rmSync(path, { force: true })
  createNamespaceAt('net', CLONE_NEWNET, path)
  return path
}

function disableIpv6(which: string): void {
  const path = `/proc/sys/net/ipv6/conf/${which}/disable_ipv6`
  if (existsSync(path)) writeFileSync(path, '1')
}
