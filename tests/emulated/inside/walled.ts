import type { Trap } from '../../engines/trap.ts'
import type { Running } from './host-under-test.ts'

/** What the cases of the part about walls share. */
export interface Walled {
  trap: Trap
  inside: Running
  sibling: Running
}

export const WALLS = 'walls'

let current: Walled | undefined

export function walled(): Walled {
  if (!current) throw new Error('no trap has been set')
  return current
}

export function setWalled(next: Walled): void {
  current = next
}
