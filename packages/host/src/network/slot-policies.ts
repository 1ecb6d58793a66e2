/** The policies of the slots, in memory and as elements of the sets of ranges and interfaces in the table. */
import assert from 'node:assert/strict'
import { errorCode } from '../linux/libc.ts'
import {
  addressKey,
  addSetElements,
  changeSetElements,
  interfaceKey,
  portKey,
  type SetElement,
} from '../linux/set-elements.ts'
import { hostInterface, type SlotNaming, slotAddress } from '../slots/slots.ts'
import { type AddressRange, addressText, mergedRanges } from './address-ranges.ts'
import { compileEgress, type Egress, httpPort, type NetworkPolicy, tlsPort } from './policy.ts'

interface SlotPolicy {
  readonly egress: Egress
  readonly elements: readonly PolicyElement[]
}

/** `text` is the element as nft writes it; with the set it is also what tells elements apart. */
interface PolicyElement extends SetElement {
  readonly text: string
}

export class SlotPolicies {
  readonly #naming: SlotNaming
  readonly #internal: readonly AddressRange[]
  /** By index; slots with the open policy are not in it. */
  readonly #policies = new Map<number, SlotPolicy>()
  readonly #byAddress = new Map<string, Egress>()
  #version = 0
  #changes: Promise<void> = Promise.resolve()

  /** @param internal CIDR blocks that no policy opens */
  constructor(naming: SlotNaming, internal: readonly string[]) {
    this.#naming = naming
    this.#internal = mergedRanges(internal)
  }

  /** For a slot with the open policy: applies to new connections at once, and is free for the open policy again. */
  set(index: number, policy: NetworkPolicy): void {
    assert(!this.#policies.has(index), `slot ${index} has a policy already`)
    const egress = compileEgress(policy, this.#internal)
    if (!egress) return
    const elements = this.#elementsOf(index, egress)
    addSetElements(this.#naming.instance, elements)
    this.#remember(index, { egress, elements })
  }

  /** For any slot: applies to new connections as one change, before it resolves. Changes are made one after another. */
  replace(index: number, policy: NetworkPolicy): Promise<void> {
    const replaced = this.#changes.then(() => this.#replace(index, policy))
    this.#changes = replaced.catch(() => {})
    return replaced
  }

  /** Takes policies over without a word to the kernel: `text` is applied by the caller. */
  assume(policies: Iterable<readonly [index: number, policy: NetworkPolicy]>): void {
    for (const [index, policy] of policies) {
      const egress = compileEgress(policy, this.#internal)
      this.#remember(index, egress && { egress, elements: this.#elementsOf(index, egress) })
    }
  }

  /** nft commands that add the elements of all slots. */
  text(): string {
    const elements = [...this.#policies.values()].flatMap((policy) => policy.elements)
    return addCommands(this.#naming.instance, elements)
  }

  /** Grows with each change. */
  get version(): number {
    return this.#version
  }

  /** By the address of a slot; undefined while its policy is the open one. */
  egressOf(address: string): Egress | undefined {
    return this.#byAddress.get(address)
  }

  #remember(index: number, policy: SlotPolicy | undefined): void {
    this.#version++
    const address = slotAddress(this.#naming, index)
    if (policy) {
      this.#policies.set(index, policy)
      this.#byAddress.set(address, policy.egress)
    } else {
      this.#policies.delete(index)
      this.#byAddress.delete(address)
    }
  }

  async #replace(index: number, policy: NetworkPolicy): Promise<void> {
    const before = this.#policies.get(index)?.elements ?? []
    const egress = compileEgress(policy, this.#internal)
    const elements = egress ? this.#elementsOf(index, egress) : []
    const add = missing(elements, before)
    try {
      await changeSetElements(this.#naming.instance, { remove: missing(before, elements), add })
    } catch (error) {
      // The table is gone: nothing to remove there, and `NetworkSlots.start` puts back what is remembered.
      if (add.length > 0 || errorCode(error) !== 'ENOENT') throw error
    }
    // Until here the proxy decides by the old rules, as the kernel does.
    this.#remember(index, egress && { egress, elements })
  }

  #elementsOf(index: number, egress: Egress): PolicyElement[] {
    const link = hostInterface(this.#naming, index)
    const name = interfaceKey(link)
    const range = (set: string, { first, last }: AddressRange): PolicyElement => ({
      set,
      key: Buffer.concat([name, addressKey(first)]),
      keyEnd: Buffer.concat([name, addressKey(last)]),
      text: `"${link}" . ${first === last ? addressText(first) : `${addressText(first)}-${addressText(last)}`}`,
    })
    const port = (number: number): PolicyElement => ({
      set: 'named',
      key: Buffer.concat([name, portKey(number)]),
      text: `"${link}" . ${number}`,
    })
    return [
      ...egress.allowed.map((addresses) => range('allowed', addresses)),
      ...egress.denied.map((addresses) => range('denied', addresses)),
      ...(egress.domains.length > 0 ? [port(httpPort)] : []),
      ...(egress.domains.length > 0 || Object.keys(egress.rules).length > 0 ? [port(tlsPort)] : []),
      ...(egress.proxy ? [{ set: 'tunnelled', key: name, text: `"${link}"` }] : []),
    ]
  }
}

const idOf = ({ set, text }: PolicyElement): string => `${set} ${text}`

function missing(from: readonly PolicyElement[], inList: readonly PolicyElement[]): PolicyElement[] {
  const there = new Set(inList.map(idOf))
  return from.filter((element) => !there.has(idOf(element)))
}

function addCommands(table: string, elements: readonly PolicyElement[]): string {
  return [...Map.groupBy(elements, (element) => element.set)]
    .map(
      ([set, members]) =>
        `add element inet ${table} ${set} { ${members.map(({ text }) => text).join(', ')} }\n`,
    )
    .join('')
}
