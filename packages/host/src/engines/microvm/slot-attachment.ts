/** How a machine hangs in the network of its slot: on a tap that the monitor opens. */
import type { Slot } from '../../slots/slots.ts'
import { attachLink, detachLink } from '../slot-attachment.ts'

/** The same in every slot: a memory snapshot names it. */
export const TAP = 'tap0'

/** Puts the tap in, owned by the slot's first id, who may open it without being root. Idempotent. */
export const attachTap = (slot: Slot): Promise<void> =>
  attachLink(slot, TAP, `tuntap add dev ${TAP} mode tap user ${slot.uidBase} vnet_hdr`)

/** Leaves the slot as every engine expects it. Idempotent, whatever of the tap was ever there. */
export const detachTap = (slot: Slot): Promise<void> => detachLink(slot, TAP)
