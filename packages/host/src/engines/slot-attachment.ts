/**
 * How a guest with a network stack of its own hangs in a slot: on a link beside the slot's `eth0`, and the slot's
 * namespace forwards between the two. The guest has the address that `eth0` has otherwise, so the slot's address
 * translation and everything that the host does about the slot stay as they are.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { errorCode } from '../linux/libc.ts'
import { inNetworkNamespace } from '../linux/namespace.ts'
import { run } from '../linux/process.ts'
import { gatewayAddress, gatewayMac, guestAddress, guestMac, type Slot } from '../slots/slots.ts'

const GATEWAY = `neigh replace ${gatewayAddress} lladdr ${gatewayMac} dev eth0 nud permanent`

/**
 * Makes a link and forwards to it. The slot has no address of its own afterwards: nothing in its namespace can be
 * addressed, whatever the guest sends. A guest sends under its own address only (strict reverse path), and no IPv6 gets
 * through, which is off in the namespace. Idempotent.
 * @param add command of `ip` that makes it, with the gateway's hardware address on the slot's side
 * @throws CommandError of `ip`
 */
export async function attachLink(slot: Slot, link: string, add: string): Promise<void> {
  await detachLink(slot, link)
  await inNamespace(slot.netnsPath, [
    add,
    `link set dev ${link} address ${gatewayMac}`,
    // The last address takes routes and neighbours of the link along.
    'address flush dev eth0',
    GATEWAY,
    `route replace ${gatewayAddress} dev eth0 scope link`,
    `route replace default via ${gatewayAddress} dev eth0`,
    `link set dev ${link} up`,
    `route replace ${guestAddress} dev ${link} scope link`,
    `neigh replace ${guestAddress} lladdr ${guestMac} dev ${link} nud permanent`,
  ])
  inNetworkNamespace(slot.netnsPath, () => {
    writeFileSync(`/proc/sys/net/ipv4/conf/${link}/rp_filter`, '1')
    writeFileSync('/proc/sys/net/ipv4/ip_forward', '1')
  })
}

/** Leaves the slot as every engine expects it. Idempotent, whatever of the link was ever there. */
export async function detachLink(slot: Slot, link: string): Promise<void> {
  if (!existsSync(slot.netnsPath) || !hasLink(slot, link)) return
  inNetworkNamespace(slot.netnsPath, () => writeFileSync('/proc/sys/net/ipv4/ip_forward', '0'))
  await inNamespace(slot.netnsPath, [
    `address replace ${guestAddress}/30 dev eth0`,
    GATEWAY,
    `route replace default via ${gatewayAddress} dev eth0`,
    // The address brings a route of its own.
    `route flush exact ${gatewayAddress}/32 dev eth0`,
    // Last: while it is there, this can be repeated.
    `link delete dev ${link}`,
  ])
}

function hasLink(slot: Slot, link: string): boolean {
  try {
    return inNetworkNamespace(slot.netnsPath, () => existsSync(`/proc/sys/net/ipv4/conf/${link}`))
  } catch (error) {
    // A namespace that is being removed has nothing left to undo.
    if (errorCode(error) === 'EINVAL') return false
    throw error
  }
}

/** Commands of `ip` in a network namespace. */
export async function inNamespace(path: string, commands: readonly string[]): Promise<void> {
  // A child inherits the namespace of the thread at the moment it is started.
  await inNetworkNamespace(path, () => run('ip', ['-batch', '-'], { stdin: `${commands.join('\n')}\n` }))
}
