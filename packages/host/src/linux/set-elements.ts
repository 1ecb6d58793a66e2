import { errorCode } from './libc.ts'
import { attribute, type NetfilterMessage, netfilterRequest, networkOrder32 } from './netlink.ts'

const NFNL_SUBSYS_NFTABLES = 10
const NFNL_MSG_BATCH_BEGIN = 0x10
const NFNL_MSG_BATCH_END = 0x11
const NFT_MSG_GETTABLE = (NFNL_SUBSYS_NFTABLES << 8) | 1
const NFT_MSG_NEWSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 12
const NFT_MSG_DELSETELEM = (NFNL_SUBSYS_NFTABLES << 8) | 14
const NLM_F_CREATE = 0x400
const NFPROTO_INET = 1
const NF_DROP = 0
const interfaceNameBytes = 16

export interface VerdictMap {
  /** Table of family `inet`. */
  table: string
  /** A map declared as `type ifname : verdict`. */
  map: string
}

/** Adds `interfaceName : drop`. Adding it again changes nothing. Throws SystemError. */
export function addDropVerdict(at: VerdictMap, interfaceName: string): void {
  const verdict = attribute(2, [attribute(2, [attribute(1, networkOrder32(NF_DROP))])])
  change(at, NFT_MSG_NEWSETELEM, NLM_F_CREATE, [key(interfaceName), verdict])
}

/** Removes the element of `interfaceName`, if there is one. Throws SystemError. */
export function deleteVerdict(at: VerdictMap, interfaceName: string): void {
  try {
    change(at, NFT_MSG_DELSETELEM, 0, [key(interfaceName)])
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error
  }
}

function key(interfaceName: string): Buffer {
  const name = Buffer.alloc(interfaceNameBytes)
  name.write(interfaceName, 0, interfaceNameBytes - 1, 'ascii')
  return attribute(1, [attribute(1, name)])
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

/** nf_tables takes changes only between a begin and an end message, and applies them as one. */
function change(at: VerdictMap, type: number, flags: number, element: readonly Buffer[]): void {
  const attributes = Buffer.concat([
    attribute(1, at.table),
    attribute(2, at.map),
    attribute(3, [attribute(1, element)]),
  ])
  const frame = (kind: number): NetfilterMessage => ({
    type: kind,
    family: 0,
    resourceId: NFNL_SUBSYS_NFTABLES,
    acknowledge: false,
  })
  netfilterRequest(
    [
      frame(NFNL_MSG_BATCH_BEGIN),
      { type, flags, family: NFPROTO_INET, attributes, acknowledge: true },
      frame(NFNL_MSG_BATCH_END),
    ],
    `${at.table} ${at.map}`,
  )
}
