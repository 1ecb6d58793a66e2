import { release } from 'node:os'
import { nameHostClass, processorModel } from '../host-class.ts'
import type { Monitor } from './monitor.ts'

/** Counts up when drives or the guest's set-up change in a way that older memory does not fit. */
const FORMAT = 1

/**
 * Names what memory fits. The guest's kernel has chosen its code by the processor, and what KVM offers of it depends on
 * the kernel of this machine.
 * @param imageDigest of the guest that new machines boot: memory of templates is made anew for it; that of one sandbox
 * has its kernel in it, and fits without
 */
export function hostClass(monitor: Monitor, imageDigest: string | undefined, agentDigest: string): string {
  const memory = monitor.memoryClass()
  const facts = [FORMAT, memory, imageDigest, release(), processorModel(), agentDigest]
  return nameHostClass(`microvm-${memory}`, facts)
}
