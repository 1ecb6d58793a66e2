import { attribute, netfilterRequest, networkOrder32 } from './netlink.ts'

const CTNETLINK_DELETE = (1 << 8) | 2
const CTA_MARK = 8
const CTA_MARK_MASK = 21
const AF_UNSPEC = 0

/**
 * Forgets tracked connections of the calling thread's network namespace: those with exactly this mark, or all.
 * Packets that still arrive for them then belong to no flow. Throws SystemError.
 */
export function flushConntrack(mark?: number): void {
  const attributes =
    mark === undefined
      ? Buffer.alloc(0)
      : Buffer.concat([
          attribute(CTA_MARK, networkOrder32(mark)),
          attribute(CTA_MARK_MASK, networkOrder32(0xffffffff)),
        ])
  netfilterRequest(
    [{ type: CTNETLINK_DELETE, family: AF_UNSPEC, attributes, acknowledge: true }],
    'conntrack',
  )
}
