/** Keeps network slots, uid maps and cgroups ready ahead of use, and makes used ones clean again. */
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Cgroup } from '../linux/cgroup.ts'
import type { CgroupRoot } from '../linux/cgroup-root.ts'
import { releaseUserNamespace, userNamespaceFor } from '../linux/idmap.ts'
import { unmountTree } from '../linux/mount-table.ts'
import type { NetworkSlots } from '../network/network-slots.ts'
import { type NetworkPolicy, openPolicy } from '../network/policy.ts'
import { type Slot, type SlotNaming, slotAddress, slotCapacity, slotDir, slotUidBase } from './slots.ts'

export interface SlotPoolOptions {
  naming: SlotNaming
  network: NetworkSlots
  cgroups: CgroupRoot
  /** Slots kept ready for a claim. */
  readyCount: number
  /** Most slots that may exist, ready and in use together. */
  maxSlots: number
  /** Runs with each slot that became ready, before it can be claimed: to start what belongs to it. */
  onReady?: (slot: Slot) => Promise<void>
  /** Runs with each slot before somebody may come: what whoever was in it has left goes. */
  onCleaned?: (slot: Slot) => void
  /** Background work that failed; the slot is set aside and made anew later, ever less often while nothing succeeds. */
  onError: (index: number, error: unknown) => void
  /** Somebody removed the firewall table; it has been put back, or `error` says why not. */
  onRulesLost?: (error?: unknown) => void
}

export interface SlotPoolCounts {
  ready: number
  inUse: number
  /** Being made or cleaned. */
  busy: number
}

/** No slot is free and no more may be made. */
export class NoSlotError extends Error {
  /** @param setAside of them, those that could not be made at the moment */
  constructor(maxSlots: number, setAside = 0) {
    super(
      setAside === 0
        ? `all ${maxSlots} slots are in use`
        : `slots cannot be made at the moment, the log says why (slot.failed)`,
    )
    this.name = 'NoSlotError'
  }
}

const claimTimeoutMs = 10_000
const rulesCheckMs = 2_000
/** Failures in a row after which the machine lacks something, and not a slot: then nothing is made for a while. */
const failuresUntilPause = 3
const firstRetryMs = 1_000
const longestRetryMs = 60_000
/** Slots beyond this many times `readyCount` are not kept after a burst: the next burst as large is as fast. */
const spareFactor = 4

interface Waiter {
  resolve: (slot: Slot) => void
  reject: (error: Error) => void
}

export class SlotPool {
  readonly #options: SlotPoolOptions
  readonly #max: number
  readonly #ready: Slot[] = []
  readonly #inUse = new Map<number, Slot>()
  readonly #busy = new Set<number>()
  /** Slots whose kernel objects exist: they are cleaned, not made. */
  readonly #made = new Set<number>()
  /** Could not be made, and are left alone for a while. */
  readonly #failed = new Set<number>()
  /** How often, until it was made. */
  readonly #failures = new Map<number, number>()
  #failuresInRow = 0
  readonly #waiters: Waiter[] = []
  #work: Promise<void> = Promise.resolve()
  #stopped = false
  #rulesTimer: NodeJS.Timeout | undefined
  #rulesCheck: Promise<void> = Promise.resolve()

  constructor(options: SlotPoolOptions) {
    this.#options = options
    this.#max = Math.min(options.maxSlots, slotCapacity(options.naming))
  }

  /**
   * Removes kernel objects of slots that are not in `inUse` (those of running sandboxes and what they may reach,
   * from the journal), takes over those that are, and makes the first slots. Resolves when `readyCount` slots are
   * ready.
   */
  async start(inUse: ReadonlyMap<number, NetworkPolicy> = new Map()): Promise<void> {
    const { network, cgroups } = this.#options
    await network.start(inUse)
    cgroups.prepare()
    const known = new Set(inUse.keys())
    await this.#sweep(known)
    for (const index of known) {
      const slot = this.slot(index)
      await userNamespaceFor(slot.uidBase)
      this.#made.add(index)
      this.#inUse.set(index, slot)
    }
    this.#refill()
    await this.idle()
    this.#scheduleRulesCheck()
  }

  get counts(): SlotPoolCounts {
    return { ready: this.#ready.length, inUse: this.#inUse.size, busy: this.#busy.size }
  }

  /** Everything that derives from an index; says nothing about whether it exists. */
  slot(index: number): Slot {
    const { naming, network } = this.#options
    return {
      index,
      netnsPath: network.netnsPath(index),
      address: slotAddress(naming, index),
      uidBase: slotUidBase(naming, index),
      cgroupPaths: this.cgroup(index).paths,
      sysfsPath: network.sysfsPath(index),
    }
  }

  cgroup(index: number): Cgroup {
    return this.#options.cgroups.cgroup(String(index))
  }

  /** A ready slot at once, or undefined. The caller journals the index before it puts anything in. */
  tryClaim(): Slot | undefined {
    const slot = this.#ready.shift()
    if (!slot) return undefined
    this.#inUse.set(slot.index, slot)
    this.#refill()
    return slot
  }

  /** A ready slot, or the next one that becomes so. Throws NoSlotError when none can or none did within 10 s. */
  async claim(): Promise<Slot> {
    const slot = this.tryClaim()
    if (slot) return slot
    const mayCome = this.#busy.size + this.#failed.size > 0 || this.#freeIndex() !== undefined
    if (this.#stopped || !mayCome) throw new NoSlotError(this.#max)
    const { promise, resolve, reject } = Promise.withResolvers<Slot>()
    const waiter = { resolve, reject }
    this.#waiters.push(waiter)
    const timer = setTimeout(() => {
      const at = this.#waiters.indexOf(waiter)
      if (at >= 0) this.#waiters.splice(at, 1)
      reject(new NoSlotError(this.#max, this.#failed.size))
    }, claimTimeoutMs)
    this.#refill()
    return promise.finally(() => clearTimeout(timer))
  }

  /**
   * Gives a slot back; it is cleaned in the background. Whatever still runs in it is killed. Idempotent.
   * @param isCleared false when something may be attached to it that only its engine knows of: it is made from scratch
   */
  release(slot: Slot, { isCleared } = { isCleared: true }): void {
    if (!this.#inUse.delete(slot.index)) return
    if (!isCleared) this.#made.delete(slot.index)
    this.#enqueue(slot.index)
  }

  /** See `NetworkSlots.setPolicy`; a claimed slot has the open policy. */
  setPolicy(slot: Slot, policy: NetworkPolicy): void {
    this.#options.network.setPolicy(slot.index, policy)
  }

  /** See `NetworkSlots.replacePolicy`. */
  replacePolicy(slot: Slot, policy: NetworkPolicy): Promise<void> {
    return this.#options.network.replacePolicy(slot.index, policy)
  }

  /** Resolves when no slot is being made or cleaned. */
  async idle(): Promise<void> {
    while (this.#busy.size > 0) await this.#work
  }

  /** Stops making slots. With `destroy` all are removed, also those in use; otherwise sandboxes go on. */
  async stop(options: { destroy: boolean }): Promise<void> {
    this.#stopped = true
    for (const waiter of this.#waiters.splice(0)) waiter.reject(new NoSlotError(this.#max))
    clearTimeout(this.#rulesTimer)
    await this.#rulesCheck
    await this.idle()
    for (const index of this.#made) await releaseUserNamespace(slotUidBase(this.#options.naming, index))
    if (!options.destroy) return
    await this.#sweep(new Set())
    await this.#options.cgroups.remove()
    await this.#options.network.remove()
  }

  /** `nft flush ruleset`, also a restart of nftables.service, takes our table along: guests must not stay without. */
  async #checkRules(): Promise<void> {
    const { network, onRulesLost } = this.#options
    try {
      if (!network.rulesPresent()) {
        await network.start()
        onRulesLost?.()
      }
    } catch (error) {
      onRulesLost?.(error)
    }
    if (!this.#stopped) this.#scheduleRulesCheck()
  }

  #scheduleRulesCheck(): void {
    const check = (): void => {
      this.#rulesCheck = this.#checkRules()
    }
    this.#rulesTimer = setTimeout(check, rulesCheckMs).unref()
  }

  #refill(): void {
    const wanted = this.#options.readyCount + this.#waiters.length
    if (this.#failuresInRow >= failuresUntilPause) return
    while (!this.#stopped && this.#ready.length + this.#busy.size < wanted) {
      const index = this.#freeIndex()
      if (index === undefined) return
      this.#enqueue(index)
    }
  }

  #freeIndex(): number | undefined {
    const ready = new Set(this.#ready.map((slot) => slot.index))
    const taken = (index: number): boolean =>
      ready.has(index) || this.#inUse.has(index) || this.#busy.has(index) || this.#failed.has(index)
    for (let index = 0; index < this.#max; index++) if (!taken(index)) return index
    return undefined
  }

  /** One at a time: making slots is kernel work under global locks, and must not take the processors from guests. */
  #enqueue(index: number): void {
    this.#busy.add(index)
    this.#work = this.#work.then(() => this.#makeReady(index))
  }

  async #makeReady(index: number): Promise<void> {
    const isNew = !this.#made.has(index)
    try {
      if (isNew) await this.#make(index)
      else if (this.#hasSpare()) return await this.#retire(index)
      else await this.#recycle(index)
      const slot = this.slot(index)
      await this.#options.onReady?.(slot)
      this.#busy.delete(index)
      this.#failuresInRow = 0
      this.#failures.delete(index)
      this.#hand(slot)
    } catch (error) {
      this.#busy.delete(index)
      // Made from scratch next time, and later where that is what failed.
      this.#made.delete(index)
      if (isNew) this.#setAside(index)
      this.#options.onError(index, error)
      this.#refill()
    }
  }

  /** What a machine lacks for a while, memory, processes or descriptors, must not cost it its slots for good. */
  #setAside(index: number): void {
    const failures = this.#failures.get(index) ?? 0
    this.#failures.set(index, failures + 1)
    this.#failed.add(index)
    this.#failuresInRow++
    const again = (): void => {
      this.#failed.delete(index)
      // The next failure pauses all again.
      this.#failuresInRow = Math.min(this.#failuresInRow, failuresUntilPause - 1)
      this.#refill()
    }
    setTimeout(again, Math.min(firstRetryMs * 2 ** failures, longestRetryMs)).unref()
  }

  #hasSpare(): boolean {
    return this.#waiters.length === 0 && this.#ready.length >= spareFactor * this.#options.readyCount
  }

  /** Removes a slot whose occupant is gone, since enough others are ready. */
  async #retire(index: number): Promise<void> {
    const { network, cgroups, naming } = this.#options
    await cgroups.cgroup(String(index)).remove()
    this.#clearDirectory(index)
    network.forgetFlows(index)
    this.#options.onCleaned?.(this.slot(index))
    await network.destroy(index)
    unmountTree(slotDir(naming, index))
    rmSync(slotDir(naming, index), { recursive: true, force: true })
    await releaseUserNamespace(slotUidBase(naming, index))
    this.#made.delete(index)
    this.#busy.delete(index)
    this.#refill()
  }

  #hand(slot: Slot): void {
    const waiter = this.#waiters.shift()
    if (!waiter) {
      this.#ready.push(slot)
      return
    }
    this.#inUse.set(slot.index, slot)
    waiter.resolve(slot)
    this.#refill()
  }

  /** Nothing stays of what there was of it before. */
  async #make(index: number): Promise<void> {
    const { network, naming } = this.#options
    const cgroup = this.cgroup(index)
    await cgroup.remove()
    this.#clearDirectory(index)
    await network.prepare(index)
    network.forgetFlows(index)
    this.#options.onCleaned?.(this.slot(index))
    cgroup.create()
    await userNamespaceFor(slotUidBase(naming, index))
    this.#made.add(index)
  }

  /** A new cgroup has all counters at zero and owes nothing to the page cache of its predecessor. */
  async #recycle(index: number): Promise<void> {
    const { network } = this.#options
    const cgroup = this.cgroup(index)
    await cgroup.remove()
    this.#clearDirectory(index)
    network.forgetFlows(index)
    await network.replacePolicy(index, openPolicy)
    this.#options.onCleaned?.(this.slot(index))
    cgroup.create()
  }

  /** What the engine left in the slot's directory; the sysfs stays. */
  #clearDirectory(index: number): void {
    const dir = slotDir(this.#options.naming, index)
    if (!existsSync(dir)) return
    for (const name of readdirSync(dir)) {
      if (name === 'sys') continue
      unmountTree(join(dir, name))
      rmSync(join(dir, name), { recursive: true, force: true })
    }
  }

  async #sweep(known: ReadonlySet<number>): Promise<void> {
    const { cgroups, network } = this.#options
    for (const name of cgroups.list()) {
      if (/^\d+$/.test(name) && !known.has(Number(name))) await cgroups.cgroup(name).remove()
    }
    for (const index of await network.sweep(known)) {
      unmountTree(slotDir(this.#options.naming, index))
      rmSync(slotDir(this.#options.naming, index), { recursive: true, force: true })
    }
  }
}
