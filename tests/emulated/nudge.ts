import { setTimeout as delay } from 'node:timers/promises'
import { Qmp } from '../../packages/host/src/engines/microvm/qmp.ts'

const ANSWERS_WITHIN_MS = 120_000
const EVERY_MS = 500
/** A key that types nothing. */
const KEY = { keys: [{ type: 'qcode', data: 'shift' }] }

/**
 * Interrupts of a device, over and over, until the machine is off. QEMU sets and clears what a processor has to be
 * interrupted for without a lock as guests of the machine come and go, and loses some: such an interrupt waits in the
 * processor's APIC until another comes. A machine whose only processor waits for its timer would stand still for good.
 * @param path of a control socket that nobody else uses
 */
export async function nudge(path: string, isOff: () => boolean): Promise<void> {
  while (!isOff()) {
    try {
      await Qmp.with(path, ANSWERS_WITHIN_MS, async (qmp) => {
        for (; !isOff(); await delay(EVERY_MS)) await qmp.execute('send-key', KEY)
      })
    } catch {
      // QEMU opens its socket a moment after it was started, and closes it a moment before it has ended.
      await delay(EVERY_MS)
    }
  }
}
