/**
 * How a machine hangs in the network of its slot: a tap beside the slot's `eth0`, and the slot's namespace forwards
 * between the two. The guest has the address that `eth0` has otherwise, so the slot's address translation and
 * everything that the host does about the slot stay as they are.
 */
import { existsSync, writeFileSync } from 'node:fs'
import { errorCode } from '../../linux/libc.ts'
import { inNetworkNamespace } from '../../linux/namespace.ts'
import { run } from '../../linux/process.ts'
import { gatewayAddress, gatewayMac, guestAddress, guestMac, type Slot } from '../../slots.ts'

/** The same in every slot: a memory snapshot names it. */
export const TAP = 'tap0'

const GATEWAY = `neigh replace ${gatewayAddress} lladdr ${gatewayMac} dev eth0 nud permanent`

/**
 * Puts the tap in, owned by the slot's first id, who may open it without being root. The slot has no address of its own
 * afterwards: nothing in its namespace can be addressed, whatever the guest sends. A guest sends under its own
 * address only (strict reverse path), and no IPv6 gets through, which is off in the namespace. Idempotent.
 * @throws CommandError of `ip`
 */
export async function attachTap(slot: Slot): Promise<void> {
  await detachTap(slot)
  await inSlot(slot, [
    `tuntap add dev ${TAP} mode tap user ${slot.uidBase} vnet_hdr`,
    `link set dev ${TAP} address ${gatewayMac}`,
    // The last address takes routes and neighbours of the link along.
    'address flush dev eth0',
    GATEWAY,
    `route replace ${gatewayAddress} dev eth0 scope link`,
    `route replace default via ${gatewayAddress} dev eth0`,
    `link set dev ${TAP} up`,
    `route replace ${guestAddress} dev ${TAP} scope link`,
    `neigh replace ${guestAddress} lladdr ${guestMac} dev ${TAP} nud permanent`,
  ])
  inNetworkNamespace(slot.netnsPath, () => {
    writeFileSync(`/proc/sys/net/ipv4/conf/${TAP}/rp_filter`, '1')
    writeFileSync('/proc/sys/net/ipv4/ip_forward', '1')
  })
}

/** Leaves the slot as any engine expects it. Idempotent, whatever of the tap was ever there. */
export async function detachTap(slot: Slot): Promise<void> {
  if (!existsSync(slot.netnsPath) || !hasTap(slot)) return
  inNetworkNamespace(slot.netnsPath, () => writeFileSync('/proc/sys/net/ipv4/ip_forward', '0'))
  await inSlot(slot, [
    `address replace ${guestAddress}/30 dev eth0`,
    GATEWAY,
    `route replace default via ${gatewayAddress} dev eth0`,
    // The address brings a route of its own.
    `route flush exact ${gatewayAddress}/32 dev eth0`,
    // Last: while it is there, this can be repeated.
    `link delete dev ${TAP}`,
  ])
}

function hasTap(slot: Slot): boolean {
  try {
    return inNetworkNamespace(slot.netnsPath, () => existsSync(`/proc/sys/net/ipv4/conf/${TAP}`))
  } catch (error) {
    // A namespace that is being removed has nothing left to undo.
    if (errorCode(error) === 'EINVAL') return false
    throw error
  }
}

async function inSlot(slot: Slot, commands: readonly string[]): Promise<void> {
  // A child inherits the namespace of the thread at the moment it is started.
  await inNetworkNamespace(slot.netnsPath, () =>
    run('ip', ['-batch', '-'], { stdin: `${commands.join('\n')}\n` }),
  )
}
