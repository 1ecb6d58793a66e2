import type { Limits } from './engines/engine.ts'
import type { Slot } from './slots.ts'
import type { Layer } from './storage/layers.ts'
import type { Upper } from './storage/uppers.ts'

/** What the core of the host needs of network and storage. `host.ts` binds the real ones. */

/** What a sandbox may reach; the slot enforces it. */
export interface NetworkPolicy {
  allowInternetAccess: boolean
  /** The API's network config as JSON; empty for the default. */
  networkJson: string
}

export interface SlotSource {
  /** A clean slot; made if none is ready. @throws when every slot is in use */
  take(): Promise<Slot>
  /** Takes the slot of an adopted sandbox out of the free ones. */
  adopt(slot: Slot): Promise<void>
  /** Sets what the occupant may reach. Its default is set by `take`. */
  allow(slot: Slot, policy: NetworkPolicy): Promise<void>
  /** Makes the slot clean and free again. Nothing runs in it any more. */
  give(slot: Slot): Promise<void>
  /** Removes kernel objects of this instance that belong to no slot it knows. Idempotent. */
  sweep(): Promise<void>
}

export interface UpperSource {
  /** An empty writable directory with a hard cap. */
  take(capMib: number): Promise<Upper>
  /** Removes it with everything in it. Idempotent. */
  give(upper: Upper): Promise<void>
  /** Marks the upper of an adopted sandbox as in use. */
  adopt(upper: Upper): Promise<void>
  /** Removes uppers of this instance that are neither in use nor ready. Idempotent. */
  sweep(): Promise<void>
}

export interface LayerSource {
  /** The layer of a digest. @throws when this machine does not have it */
  get(digest: string): Promise<Layer>
  /** A root file system as a layer. */
  importDirectory(directory: string): Promise<Layer>
  /** What was written into an upper, as a layer; undefined when nothing was. Nothing may run on it. */
  fromUpper(upper: Upper): Promise<Layer | undefined>
}

/** Nothing outside the limits of the manifest is pooled, so equality decides whether a pooled sandbox fits. */
export const sameLimits = (a: Limits, b: Limits): boolean =>
  a.cpuCount === b.cpuCount && a.memoryMib === b.memoryMib && a.diskMib === b.diskMib && a.pids === b.pids
