import type { Limits } from '../engines/engine.ts'
import type { NetworkPolicy } from '../network/policy.ts'
import type { Slot } from '../slots/slots.ts'
import type { Layer } from '../storage/layers.ts'
import type { Upper } from '../storage/uppers.ts'

/** What the core of the host needs of network and storage. `host.ts` binds the real ones. */

export interface SlotSource {
  /** A clean slot whose occupant may reach the internet; waits for one to be made. @throws when none can be */
  claim(): Promise<Slot>
  /** Sets what the occupant may reach, once, before it runs. */
  setPolicy(slot: Slot, policy: NetworkPolicy): void
  /** Replaces what the occupant may reach, for new connections before it resolves. */
  replacePolicy(slot: Slot, policy: NetworkPolicy): Promise<void>
  /**
   * Gives it back; whatever still runs in it is killed, and it is made clean in the background. Idempotent.
   * @param isCleared false when no engine has taken away what it attached: then it is made from scratch. Default true
   */
  release(slot: Slot, options?: { isCleared: boolean }): void
}

export interface UpperSource {
  /** Before something new is put there. @throws when the disk is full, or was and takes nothing yet */
  assertRoom(): void
  /** An empty writable directory with a hard cap. @throws when the disk is full */
  take(capMib: number): Upper
  /** A writable copy of one that nothing runs on, within the cap. Nobody's until `recorded`. */
  clone(base: Upper, capMib: number): Promise<Upper>
  /** A read-only copy of one as it is now. Nobody's until `recorded`. */
  snapshot(upper: Upper): Promise<Upper>
  /** Names a copy that somebody else makes at its path. Nobody's until `recorded`. */
  nameCopy(upper: Upper): Upper
  has(upper: Upper): boolean
  /** Waits until its files would be there after a loss of power; those of a `snapshot` are. */
  sync(upper: Upper): Promise<void>
  /** The journal or a snapshot names it from now on. */
  recorded(upper: Upper): void
  usageBytes(upper: Upper): number
  /** Removes it with everything in it, in the background. Idempotent. */
  release(upper: Upper): void
}

export interface LayerSource {
  /** The layer of a digest, if this machine has it. */
  get(digest: string): Layer | undefined
  /** A root file system as a layer. */
  importDirectory(directory: string): Promise<Layer>
  /** What was written into an upper, as a layer. Nothing may run on it. */
  importUpper(upper: Upper): Promise<Layer>
}

/** Nothing outside the limits of the manifest is pooled, so equality decides whether a pooled sandbox fits. */
export const sameLimits = (a: Limits, b: Limits): boolean =>
  a.cpuCount === b.cpuCount && a.memoryMib === b.memoryMib && a.diskMib === b.diskMib && a.pids === b.pids
