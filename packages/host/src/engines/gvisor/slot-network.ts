/**
 * The network of a slot as runsc needs it. runsc takes address and routes of the slot's `eth0` away and reads packets
 * off the link itself, before the kernel of this machine could translate addresses inside the namespace. While a
 * sandbox of gVisor has the slot, its packets are therefore translated at this machine's end of the link: without state,
 * before and after everything else that the firewall does there.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { libcFunction } from '../../linux/libc.ts'
import { inNetworkNamespace } from '../../linux/namespace.ts'
import { CommandError, run } from '../../linux/process.ts'
import { gatewayAddress, gatewayMac, guestAddress, type Slot } from '../../slots.ts'

const interfaceNameCall = libcFunction('if_indextoname', 'size_t', ['uint', 'void *'])
const INTERFACE_NAME_BYTES = 16
/** Before the first and after the last of the firewall's own chains. */
const FIRST = -500
const LAST = 500

/** Packets of the slot's address reach the guest under the address that it has in every slot, and the way back. */
export async function translateAtHost(slot: Slot): Promise<void> {
  const link = hostLink(slot)
  const table = tableOf(link)
  await run('nft', ['-f', '-'], {
    stdin: `table netdev ${table}
delete table netdev ${table}
table netdev ${table} {
  chain from_guest {
    type filter hook ingress device "${link}" priority ${FIRST};
    ip saddr ${guestAddress} ip saddr set ${slot.address}
  }
  chain to_guest {
    type filter hook egress device "${link}" priority ${LAST};
    ip daddr ${slot.address} ip daddr set ${guestAddress}
  }
}
`,
  })
}

/** Leaves the slot as any engine expects it. Idempotent, whatever of it was ever done. */
export async function putBackNetwork(slot: Slot): Promise<void> {
  const settings = [
    `address replace ${guestAddress}/30 dev eth0`,
    // The kernel forgot the neighbour with the address.
    `neigh replace ${gatewayAddress} lladdr ${gatewayMac} dev eth0 nud permanent`,
    `route replace default via ${gatewayAddress} dev eth0`,
  ]
  const addresses = inNetworkNamespace(slot.netnsPath, () =>
    run('ip', ['-batch', '-'], { stdin: `${settings.join('\n')}\n` }),
  )
  await Promise.all([addresses, dropTranslation(slot)])
}

async function dropTranslation(slot: Slot): Promise<void> {
  try {
    await run('nft', ['delete', 'table', 'netdev', tableOf(hostLink(slot))])
  } catch (error) {
    if (!(error instanceof CommandError) || !error.stderr.includes('No such file')) throw error
  }
}

const tableOf = (link: string): string => `${link}_gvisor`

/** Name of this machine's end of the slot's link. */
function hostLink(slot: Slot): string {
  const index = Number(readFileSync(join(slot.sysfsPath, 'class/net/eth0/iflink'), 'utf8'))
  const name = Buffer.alloc(INTERFACE_NAME_BYTES)
  if (Number(interfaceNameCall(index, name)) === 0)
    throw new Error(`slot ${slot.index} has no link to this machine`)
  return name.toString('latin1', 0, name.indexOf(0))
}
