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
}
