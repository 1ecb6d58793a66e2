import { existsSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { errorCode } from './libc.ts'

const maxDepth = 16
const removeAttempts = 50
const removeRetryMs = 10

/** Control files take one write(2) and must not be created when missing. */
export function writeControl(path: string, value: string | number): void {
  writeFileSync(path, String(value), { flag: 'r+' })
}

/** A control file that holds one number. */
export function readNumber(path: string): number {
  return Number(readFileSync(path, 'utf8'))
}

/** One value of a `key value` control file; 0 when the key is missing. */
export function readKey(path: string, key: string): number {
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    if (line.startsWith(`${key} `)) return Number(line.slice(key.length + 1))
  }
  return 0
}

/** Sum of the values of `keys` in a `key value` control file. */
export function readKeys(path: string, keys: readonly string[]): number {
  let sum = 0
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    const [key = '', value] = line.split(' ')
    if (keys.includes(key)) sum += Number(value)
  }
  return sum
}

/** `dir` and all groups below it, parents first; empty when it does not exist. */
export function cgroupTree(dir: string, depth = 0): string[] {
  if (depth > maxDepth || !existsSync(dir)) return []
  const children = readdirSync(dir, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  return [dir, ...children.flatMap((child) => cgroupTree(join(dir, child.name), depth + 1))]
}

/** Pids in `dir` and below. */
export function processesUnder(dir: string): number[] {
  return cgroupTree(dir).flatMap((group) => {
    try {
      return readFileSync(join(group, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number)
    } catch (error) {
      if (errorCode(error) === 'ENOENT' || errorCode(error) === 'ENODEV') return []
      throw error
    }
  })
}

/**
 * Removes `dir` and the groups below it. A group stays busy for a moment after its last process is reaped, so
 * this tries for half a second. Throws EBUSY after that. Idempotent.
 */
export async function removeCgroupTree(dir: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      for (const group of cgroupTree(dir).reverse()) rmdirSync(group)
      return
    } catch (error) {
      if (errorCode(error) === 'ENOENT') continue
      if (errorCode(error) !== 'EBUSY' || attempt >= removeAttempts) throw error
      await delay(removeRetryMs)
    }
  }
}

/**
 * Waits until `reached` says so: first without giving up the processor (most transitions take microseconds), then
 * every millisecond. Answers whether it was reached within `timeoutMs`.
 */
export async function settled(reached: () => boolean, timeoutMs: number): Promise<boolean> {
  const start = performance.now()
  while (performance.now() - start < 1) if (reached()) return true
  while (performance.now() - start < timeoutMs) {
    if (reached()) return true
    await delay(1)
  }
  return reached()
}
