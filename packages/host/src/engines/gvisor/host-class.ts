import { nameHostClass, processorFeatures } from '../host-class.ts'
import { PLATFORM, type Runsc } from './runsc.ts'

/** Counts up when mounts or options of a sandbox change in a way that older memory does not fit. */
const FORMAT = 4

/**
 * Names what memory fits. runsc refuses memory of another version, and programs have chosen their code by the
 * processor's features when they started. The kernel of the machine is no part of it.
 */
export function hostClass({ version }: Runsc, agentDigest: string): string {
  const facts = [FORMAT, version, PLATFORM, process.arch, processorFeatures(), agentDigest]
  return nameHostClass(`gvisor-${version}-${PLATFORM}`, facts)
}
