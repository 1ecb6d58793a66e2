import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { PLATFORM, type Runsc } from './runsc.ts'

/** Counts up when mounts or options of a sandbox change in a way that older memory does not fit. */
const FORMAT = 2

/**
 * Names what memory fits: readable in front, exact in the hash. runsc refuses memory of another version, and programs
 * have chosen their code by the processor's features when they started. The kernel of the machine is no part of it.
 */
export function hostClass(runsc: Runsc, agentDigest: string): string {
  const facts = [FORMAT, runsc.version, PLATFORM, process.arch, processorFeatures(), agentDigest]
  const hash = createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 16)
  return `gvisor-${runsc.version}-${PLATFORM}-${hash}`.replace(/[^\w.+-]/g, '_')
}

function processorFeatures(): string {
  const text = readFileSync('/proc/cpuinfo', 'utf8')
  return /^(?:flags|Features)\s*:\s*(.*)$/m.exec(text)?.[1] ?? ''
}
