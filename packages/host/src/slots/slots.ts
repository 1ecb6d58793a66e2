import { join } from 'node:path'

/**
 * A slot is the part of a sandbox that costs more to make than to reuse: a network namespace with its veth,
 * address and rules, a range of host uids, and a cgroup. Slots are made ahead and recycled.
 */
export interface Slot {
  /** 0-based, below the configured maximum; everything else derives from it. */
  readonly index: number
  /** Path of the network namespace, e.g. /run/netns/e2b-12. */
  readonly netnsPath: string
  /** Address under which this machine reaches the sandbox. The guest itself always has the same one. */
  readonly address: string
  /** First of 65,536 host uids and gids that belong to this slot. */
  readonly uidBase: number
  /** cgroup directories of this slot, one per hierarchy (several on v1, one on v2). */
  readonly cgroupPaths: readonly string[]
  /** A read-only sysfs that shows this slot's network devices and no cgroups; for the guest's /sys. */
  readonly sysfsPath: string
}

export interface SlotNaming {
  /** Prefix of every kernel object: 1 to 8 lower-case letters and digits, a letter first. Default host: `e2b`. */
  instance: string
  /** IPv4 range in CIDR form; its first address is this machine's own towards the sandboxes. */
  addressRange: string
  /** Host uid of id 0 in slot 0; slot n starts 65,536 * n above. */
  uidBase: number
  /** Directory for what lives until the next boot; `slots/<index>` in it belongs to a slot. */
  runDir: string
}

/** Same in every slot, so that captured connections and listeners fit whichever slot they wake up in. */
export const guestAddress = '169.254.0.21'
export const gatewayAddress = '169.254.0.22'
/** Where guests find their host; a documentation address, so nobody else is behind it. */
export const eventsAddress = '192.0.2.1'
export const guestMac = '02:e2:b0:00:00:15'
export const gatewayMac = '02:e2:b0:00:00:16'
export const idsPerSlot = 65_536
export const netnsDir = '/run/netns'
/** Network, this machine's address and broadcast are not given to slots. */
const reservedAddresses = 3
/** Connection marks hold an index in 16 bits. */
const maxIndexes = 65_536

export function netnsName(naming: SlotNaming, index: number): string {
  return `${naming.instance}-${index}`
}

/** Name of the veth end on the host's side; the guest's end is `eth0`. */
export function hostInterface(naming: SlotNaming, index: number): string {
  return `${naming.instance}${index}h`
}

export function slotDir(naming: SlotNaming, index: number): string {
  return join(naming.runDir, 'slots', String(index))
}

export function slotUidBase(naming: SlotNaming, index: number): number {
  return naming.uidBase + index * idsPerSlot
}

/** This machine's address towards its sandboxes: source of its requests, and where their DNS queries go. */
export function machineAddress(naming: SlotNaming): string {
  return addressAt(parseRange(naming.addressRange).first + 1)
}

export function slotAddress(naming: SlotNaming, index: number): string {
  return addressAt(parseRange(naming.addressRange).first + 2 + index)
}

/** How many slots fit the address range, the uid range and the length of an interface name. */
export function slotCapacity(naming: SlotNaming): number {
  const byUid = Math.floor((0xffff_fffe - naming.uidBase) / idsPerSlot)
  const byName = 10 ** (15 - naming.instance.length - 1)
  return Math.min(parseRange(naming.addressRange).size - reservedAddresses, byUid, byName, maxIndexes)
}

/** Throws RangeError when a name or range cannot work. */
export function assertNaming(naming: SlotNaming): void {
  if (!/^[a-z][a-z0-9]{0,7}$/.test(naming.instance)) {
    throw new RangeError(`instance name '${naming.instance}': use 1 to 8 of a-z and 0-9, a letter first`)
  }
  if (slotCapacity(naming) < 1)
    throw new RangeError(`no slot fits ${naming.addressRange} and uids from ${naming.uidBase}`)
}

interface AddressRange {
  first: number
  size: number
}

function parseRange(cidr: string): AddressRange {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(cidr)
  const octets = match?.slice(1, 5).map(Number)
  const bits = Number(match?.[5])
  if (!octets || octets.some((octet) => octet > 255) || bits < 8 || bits > 29) {
    throw new RangeError(`address range '${cidr}': use an IPv4 range from /8 to /29, e.g. 10.11.0.0/16`)
  }
  const size = 2 ** (32 - bits)
  const address = octets.reduce((sum, octet) => sum * 256 + octet, 0)
  return { first: address - (address % size), size }
}

function addressAt(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.')
}
