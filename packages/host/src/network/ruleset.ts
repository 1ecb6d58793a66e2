/** The text of the nftables rules. What they promise stands in README.md; each rule says what it is there for. */
import { eventsAddress, gatewayAddress, guestAddress } from '../slots/slots.ts'

/** Never reachable from a sandbox: private, shared, link-local (metadata), loopback, multicast, reserved. */
export const internalRanges: readonly string[] = [
  '0.0.0.0/8',
  '10.0.0.0/8',
  '100.64.0.0/10',
  '127.0.0.0/8',
  '169.254.0.0/16',
  '172.16.0.0/12',
  '192.0.0.0/24',
  '192.168.0.0/16',
  '198.18.0.0/15',
  '224.0.0.0/3',
]

export interface HostRulesetOptions {
  table: string
  machineAddress: string
  dnsPort: number
  /** Port of the egress proxy on `machineAddress`. */
  egressPort: number
  /** Port of the listener on `machineAddress` that guests reach at `eventsAddress`, port 80. */
  eventsPort: number
  /** CIDR blocks that no slot reaches. */
  forbidden: readonly string[]
  maxFlowsPerSlot: number
  /** Of each slot in each direction, Mbit/s; 0 = as much as there is. */
  mbitPerSlot: number
}

const bytesPerMbit = 125_000
/** What may come at once after silence beside a second's worth, which the kernel adds: packets between links are large. */
const burstBytes = 128 * 1024

/** Drops what is over the bound, as a slow link with a short queue does; TCP finds its pace. */
function bandwidthRule(direction: 'iifname' | 'oifname', set: string, mbit: number): string {
  if (mbit === 0) return ''
  const bytesPerSec = Math.round(mbit * bytesPerMbit)
  const limit = `limit rate over ${bytesPerSec} bytes/second burst ${burstBytes} bytes`
  return `${direction} @slots add @${set} { ${direction} ${limit} } drop comment "bandwidth of one sandbox"`
}

/**
 * Creates or refreshes the instance's table as one transaction. The elements of running slots stay, so this is safe
 * while sandboxes run; only connections are counted anew, since a counter keeps the bound it was made with.
 * Policy of every chain is accept: other traffic of the machine is not ours to judge.
 */
export function hostRuleset(options: HostRulesetOptions): string {
  const { table, machineAddress, dnsPort, egressPort, eventsPort, mbitPerSlot } = options
  return `
add table inet ${table}
add set inet ${table} slots { type ifname; }
add set inet ${table} sources { type ifname . ipv4_addr; }
add map inet ${table} marks { type ifname : mark; }
add set inet ${table} allowed { type ifname . ipv4_addr; flags interval; }
flush set inet ${table} allowed
add set inet ${table} denied { type ifname . ipv4_addr; flags interval; }
flush set inet ${table} denied
add set inet ${table} named { type ifname . inet_service; }
flush set inet ${table} named
add set inet ${table} tunnelled { type ifname; }
flush set inet ${table} tunnelled
add set inet ${table} flows { type ifname; size 65536; flags dynamic; }
flush set inet ${table} flows
add set inet ${table} speakers { type ifname; size 65536; flags dynamic; }
flush set inet ${table} speakers
add set inet ${table} sent { type ifname; size 65536; flags dynamic; }
flush set inet ${table} sent
add set inet ${table} received { type ifname; size 65536; flags dynamic; }
flush set inet ${table} received
add set inet ${table} forbidden { type ipv4_addr; flags interval; auto-merge; }
flush set inet ${table} forbidden
add element inet ${table} forbidden { ${options.forbidden.join(', ')} }
add chain inet ${table} guard { type filter hook prerouting priority raw; policy accept; }
add chain inet ${table} mark_new { type filter hook prerouting priority mangle; policy accept; }
add chain inet ${table} divert { type nat hook prerouting priority dstnat; policy accept; }
add chain inet ${table} input { type filter hook input priority filter; policy accept; }
add chain inet ${table} forward { type filter hook forward priority filter; policy accept; }
add chain inet ${table} mark_host { type filter hook output priority mangle; policy accept; }
add chain inet ${table} arriving { type filter hook postrouting priority mangle; policy accept; }
add chain inet ${table} translate { type nat hook postrouting priority srcnat; policy accept; }
add chain inet ${table} to_host
add chain inet ${table} from_slot
add chain inet ${table} to_slot
add chain inet ${table} refuse
flush chain inet ${table} guard
flush chain inet ${table} mark_new
flush chain inet ${table} divert
flush chain inet ${table} input
flush chain inet ${table} forward
flush chain inet ${table} mark_host
flush chain inet ${table} arriving
flush chain inet ${table} translate
flush chain inet ${table} to_host
flush chain inet ${table} from_slot
flush chain inet ${table} to_slot
flush chain inet ${table} refuse
table inet ${table} {
  chain guard {
    iifname @slots meta protocol != ip drop comment "no IPv6"
    iifname @slots iifname . ip saddr != @sources drop comment "a slot sends from its own address only"
    ${bandwidthRule('iifname', 'sent', mbitPerSlot)}
  }
  chain arriving {
    ${bandwidthRule('oifname', 'received', mbitPerSlot)}
  }
  chain mark_new {
    iifname @slots ct state new add @flows { iifname ct count over ${options.maxFlowsPerSlot} } drop \
      comment "one guest must not fill the machine's connection table"
    iifname @slots ip daddr ${eventsAddress} ct state new \
      add @speakers { iifname limit rate over 20/second burst 40 packets } drop \
      comment "one guest must not keep the events listener busy"
    iifname @slots ct state new ct mark set iifname map @marks comment "lets a recycled slot's flows be forgotten"
  }
  chain mark_host {
    oifname @slots ct state new ct mark set oifname map @marks
  }
  chain divert {
    iifname @slots ip daddr ${gatewayAddress} udp dport 53 dnat ip to ${machineAddress}:${dnsPort}
    iifname @slots ip daddr ${gatewayAddress} tcp dport 53 dnat ip to ${machineAddress}:${dnsPort}
    iifname @slots ip daddr ${eventsAddress} tcp dport 80 dnat ip to ${machineAddress}:${eventsPort}
    ip daddr ${eventsAddress} return
    ip daddr @forbidden return
    fib daddr type local return comment "the proxy must not open this machine's own services"
    iifname . tcp dport @named dnat ip to ${machineAddress}:${egressPort} comment "decided by name"
    iifname @tunnelled meta l4proto tcp dnat ip to ${machineAddress}:${egressPort}
  }
  chain input {
    iifname @slots jump to_host
    iifname != "lo" ip daddr ${machineAddress} drop comment "the DNS forwarder serves slots only"
  }
  chain to_host {
    ct state established,related ct direction reply accept comment "answers to this machine's requests"
    ip daddr ${machineAddress} udp dport ${dnsPort} ct original ip daddr ${gatewayAddress} accept
    ip daddr ${machineAddress} tcp dport ${dnsPort} ct original ip daddr ${gatewayAddress} accept
    ip daddr ${machineAddress} tcp dport ${eventsPort} ct original ip daddr ${eventsAddress} accept
    ip daddr ${machineAddress} tcp dport ${egressPort} ct status dnat ct original ip daddr != @forbidden accept
    drop
  }
  chain forward {
    iifname @slots jump from_slot
    oifname @slots jump to_slot
  }
  chain from_slot {
    oifname @slots drop comment "no guest reaches a guest"
    ip daddr ${eventsAddress} goto refuse comment "only its port 80 exists, and that is this machine's"
    ip daddr @forbidden goto refuse
    ct state invalid drop
    ct state related accept
    meta l4proto tcp ct state established accept
    iifname . ip daddr @allowed accept
    iifname . ip daddr @denied goto refuse comment "without TCP each packet is judged, so a change holds at once"
    accept
  }
  chain refuse {
    meta l4proto tcp reject with tcp reset comment "an answer spares the guest its timeout"
    reject with icmp admin-prohibited
  }
  chain to_slot {
    ct state established,related ct direction reply accept
    drop
  }
  chain translate {
    iifname @slots oifname != @slots masquerade
  }
}
`
}

/** One-to-one translation inside a slot's namespace: the guest keeps one address, the host tells slots apart. */
export function slotRuleset(address: string): string {
  return `
add table ip slot
delete table ip slot
table ip slot {
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "eth0" ip daddr ${address} dnat to ${guestAddress}
  }
  chain leaving {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "eth0" ip saddr ${guestAddress} snat to ${address}
  }
}
`
}

export interface SlotElements {
  table: string
  interfaceName: string
  address: string
  mark: number
}

/** Makes the table know a slot's interface. Must come before the interface does: unknown ones are not guarded. */
export function addSlotElements(slot: SlotElements): string {
  const { table, interfaceName, address, mark } = slot
  return `
add element inet ${table} slots { "${interfaceName}" }
add element inet ${table} sources { "${interfaceName}" . ${address} }
add element inet ${table} marks { "${interfaceName}" : ${mark} }
`
}

/** Adding first makes the deletion succeed whether or not the elements were there. */
export function removeSlotElements(slot: SlotElements): string {
  const { table, interfaceName, address, mark } = slot
  return `${addSlotElements(slot)}
delete element inet ${table} marks { "${interfaceName}" : ${mark} }
delete element inet ${table} sources { "${interfaceName}" . ${address} }
delete element inet ${table} slots { "${interfaceName}" }
`
}
