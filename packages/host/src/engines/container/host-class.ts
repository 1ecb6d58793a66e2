import { release } from 'node:os'
import { nameHostClass, processorFeatures } from '../host-class.ts'

/** Counts up when the mounts or options of a sandbox change in a way that older images do not fit. */
const FORMAT = 1

/**
 * Names what memory images fit. CRIU restores only on the same kernel, and programs have chosen their code by the
 * processor's features when they started.
 */
export function hostClass(criuVersion: string | undefined, agentDigest: string): string {
  const criu = criuVersion ?? 'none'
  const facts = [FORMAT, criu, release(), process.arch, processorFeatures(), agentDigest]
  return nameHostClass(`container-criu${criu}-linux${release()}`, facts)
}
