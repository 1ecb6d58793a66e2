import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { endOfLog } from '../log-end.ts'
import { shimFiles } from '../slot-files.ts'
import type { Monitor } from './monitor.ts'

const PANIC = 'Kernel panic'
const MOST_WORDS = 2_000

/** The files of one slot that belong to its machine. */
export const machineFiles = (slotDir: string) => ({
  ...shimFiles(slotDir),
  machine: join(slotDir, 'machine'),
  record: join(slotDir, 'machine.json'),
})

export type MachineFiles = ReturnType<typeof machineFiles>

/** What memory was captured of; a restored machine has exactly this, whatever is asked for. */
export interface MachineRecord {
  version: 1
  monitor: Monitor['name']
  vcpuCount: number
  memoryMib: number
  /** Digests, bottom to top. */
  layers: readonly string[]
}

/** Of a captured machine, in its `memoryDir`. */
export const recordIn = (memoryDir: string): string => join(memoryDir, 'machine.json')

export function writeMachineRecord(path: string, record: MachineRecord): void {
  writeFileSync(path, `${JSON.stringify(record)}\n`)
}

/** @throws Error when there is none that this version understands */
export function readMachineRecord(path: string): MachineRecord {
  const record = JSON.parse(readFileSync(path, 'utf8')) as MachineRecord
  if (record.version !== 1) throw new Error(`${path} is of a version that is not known here`)
  return record
}

/**
 * What a monitor said last, as the end of a sentence; empty when it said nothing. Of a guest's kernel that gave up it is
 * how that begins: why, and where.
 */
export function lastWords(logPath: string): string {
  const text = endOfLog(logPath)
  const panicAt = text.lastIndexOf(PANIC)
  const words = panicAt < 0 ? text.slice(-MOST_WORDS) : text.slice(panicAt, panicAt + MOST_WORDS)
  return words === '' ? '' : `: ${words}`
}
