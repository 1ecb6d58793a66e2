import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/** Readable in front, exact in the hash. @param facts everything that memory depends on */
export function nameHostClass(readable: string, facts: readonly unknown[]): string {
  const hash = createHash('sha256').update(JSON.stringify(facts)).digest('hex').slice(0, 16)
  return `${readable}-${hash}`.replace(/[^\w.+-]/g, '_')
}

/** What the kernel says of the first processor: programs have chosen their code by it when they started. */
export function processorFeatures(): string {
  return /^(?:flags|Features)\s*:\s*(.*)$/m.exec(processorText())?.[1] ?? ''
}

/** Which processor it is, and its features. A machine of another architecture says less of it. */
export function processorModel(): string {
  const text = processorText()
  const value = (name: string): string => new RegExp(`^${name}\\s*:\\s*(.*)$`, 'm').exec(text)?.[1] ?? ''
  return ['vendor_id', 'cpu family', 'model', 'stepping', 'flags'].map(value).join(' ')
}

const processorText = (): string => readFileSync('/proc/cpuinfo', 'utf8')
