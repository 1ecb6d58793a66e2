/** Programs that a cell starts write to the standard streams themselves: what was printed before goes first. */
import childProcess from 'node:child_process'
import { syncBuiltinESMExports } from 'node:module'

const STARTERS = ['exec', 'execFile', 'execFileSync', 'execSync', 'fork', 'spawn', 'spawnSync'] as const

type Starter = (...given: unknown[]) => unknown

/** @param flush is called before each program starts */
export function beforePrograms(flush: () => void): void {
  const starters = childProcess as unknown as Record<(typeof STARTERS)[number], Starter>
  for (const name of STARTERS) {
    const start = starters[name]
    const flushAndStart = function (this: unknown, ...given: unknown[]): unknown {
      flush()
      return Reflect.apply(start, this, given)
    }
    // What others attach to the functions, such as their form for promises, stays with them.
    Object.defineProperties(flushAndStart, Object.getOwnPropertyDescriptors(start))
    starters[name] = flushAndStart
  }
  syncBuiltinESMExports()
}
