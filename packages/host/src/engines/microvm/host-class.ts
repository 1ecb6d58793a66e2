import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import type { GuestImage } from './image/guest-image.ts'
import type { Monitor } from './monitor.ts'

/** Counts up when drives or the guest's set-up change in a way that older memory does not fit. */
const FORMAT = 1

/**
 * Names what memory fits: readable in front, exact in the hash. The guest's kernel has chosen its code by the
 * processor, and what KVM offers of it depends on the kernel of this machine.
 */
export function hostClass(monitor: Monitor, image: GuestImage, agentDigest: string): string {
  const facts = [FORMAT, monitor.memoryClass(), image.digest, release(), processor(), agentDigest]
  const hash = createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 16)
  return `microvm-${monitor.memoryClass()}-${hash}`.replace(/[^\w.+-]/g, '_')
}

function processor(): string {
  const text = readFileSync('/proc/cpuinfo', 'utf8')
  const value = (name: string): string => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(text)?.[1] ?? ''
  return ['vendor_id', 'cpu family', 'model', 'stepping', 'flags'].map(value).join(' ')
}
