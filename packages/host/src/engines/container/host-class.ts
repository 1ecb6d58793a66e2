import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { release } from 'node:os'

/** Counts up when the mounts or options of a sandbox change in a way that older images do not fit. */
const FORMAT = 1

/**
 * Names what memory images fit: readable in front, exact in the hash. CRIU restores only on the same kernel, and
 * programs have chosen their code by the processor's features when they started.
 */
export function hostClass(criuVersion: string | undefined, agentDigest: string): string {
  const facts = [FORMAT, criuVersion ?? 'none', release(), process.arch, processorFeatures(), agentDigest]
  const hash = createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 16)
  return `container-criu${criuVersion ?? 'none'}-linux${release()}-${hash}`.replace(/[^\w.+-]/g, '_')
}

function processorFeatures(): string {
  const text = readFileSync('/proc/cpuinfo', 'utf8')
  return /^(?:flags|Features)\s*:\s*(.*)$/m.exec(text)?.[1] ?? ''
}
