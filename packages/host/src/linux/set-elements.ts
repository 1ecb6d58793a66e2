import { errorCode } from './libc.ts'
import {
  attribute,
  type NetfilterMessage,
  netfilterRequest,
  netfilterRequestInBackground,
} from './netlink.ts'

const NFNL_SUBSYS_NFTABLES = 10
const NFNL_MSG_BATCH_BEGIN = 0x10
const NFNL_MSG_BATCH_END = 0x11
const NFT_MSG_GETTABLE = (NFNL_SUBSYS_NFTABLES << 8) | 1
const NFT_MSG_NEWSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 12
const NFT_MSG_DELSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 14
const NFTA_SET_ELEM_KEY = 1
const NFTA_SET_ELEM_KEY_END = 10
const NLM_F_CREATE = 0x400
const NFPROTO_INET = 1
const interfaceNameBytes = 16
/** An attribute counts its bytes in 16 bits; an element takes at most 64. */
const elementsPerMessage = 500

/** An element of a set in a table of family `inet`, as bytes of its key. */
export interface SetElement {
  set: string
  key: Buffer
  /** Last key of a range, in sets of ranges; for one value the same as `key`. */
  keyEnd?: Buffer
}

export interface ElementChanges {
  remove: readonly SetElement[]
  add: readonly SetElement[]
}

/**
 * Applies all changes as one transaction: no packet sees half of them. Adding an element that is there changes
 * nothing. Throws SystemError: ENOENT when the table, a set or an element to remove is missing, EEXIST when a range
 * overlaps another.
 */
export function addSetElements(table: string, add: readonly SetElement[]): void {
  const messages = batch(table, { remove: [], add })
  if (messages.length > 0) netfilterRequest(messages, `${table} elements`)
}

/** The same with removals, for which the kernel waits some milliseconds: it does so in the background. */
export async function changeSetElements(table: string, changes: ElementChanges): Promise<void> {
  const messages = batch(table, changes)
  if (messages.length > 0) await netfilterRequestInBackground(messages, `${table} elements`)
}

/** nf_tables takes changes only between a begin and an end message. */
function batch(table: string, { remove, add }: ElementChanges): NetfilterMessage[] {
  const frame = (type: number): NetfilterMessage => ({
    type,
    family: 0,
    resourceId: NFNL_SUBSYS_NFTABLES,
    acknowledge: false,
  })
  const messages = [
    ...elementMessages(table, remove, NFT_MSG_DELSETELEM, 0),
    ...elementMessages(table, add, NFT_MSG_NEWSETELEM, NLM_F_CREATE),
  ]
  if (messages.length === 0) return []
  return [frame(NFNL_MSG_BATCH_BEGIN), ...messages, frame(NFNL_MSG_BATCH_END)]
}

/** Key of type `ifname`. */
export function interfaceKey(interfaceName: string): Buffer {
  const name = Buffer.alloc(interfaceNameBytes)
  name.write(interfaceName, 0, interfaceNameBytes - 1, 'ascii')
  return name
}

/** Key of type `ipv4_addr`. */
export function addressKey(address: number): Buffer {
  const key = Buffer.alloc(4)
  key.writeUInt32BE(address)
  return key
}

/** Key of type `inet_service`, padded as it stands in a concatenation. */
export function portKey(port: number): Buffer {
  const key = Buffer.alloc(4)
  key.writeUInt16BE(port)
  return key
}

/** Whether the table of family `inet` exists. Throws SystemError when the kernel refuses to say. */
export function tableExists(table: string): boolean {
  const message = {
    type: NFT_MSG_GETTABLE,
    family: NFPROTO_INET,
    attributes: attribute(1, table),
    acknowledge: true,
  }
  try {
    netfilterRequest([message], table)
    return true
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false
    throw error
  }
}

function elementMessages(
  table: string,
  elements: readonly SetElement[],
  type: number,
  flags: number,
): NetfilterMessage[] {
  const messages: NetfilterMessage[] = []
  for (const [set, members] of Map.groupBy(elements, (element) => element.set)) {
    for (let at = 0; at < members.length; at += elementsPerMessage) {
      const attributes = Buffer.concat([
        attribute(1, table),
        attribute(2, set),
        attribute(3, members.slice(at, at + elementsPerMessage).map(encodeElement)),
      ])
      messages.push({ type, flags, family: NFPROTO_INET, attributes, acknowledge: true })
    }
  }
  return messages
}

function encodeElement({ key, keyEnd }: SetElement): Buffer {
  const value = (type: number, bytes: Buffer): Buffer => attribute(type, [attribute(1, bytes)])
  const parts = [value(NFTA_SET_ELEM_KEY, key)]
  if (keyEnd) parts.push(value(NFTA_SET_ELEM_KEY_END, keyEnd))
  return attribute(1, parts)
}
