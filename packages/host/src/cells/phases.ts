/** Milliseconds of each phase of a start, in the order they ran. */
export type Phases = Record<string, number>

/** Adds the time since the last call to `phases`, under a name. */
export function phaseClock(phases: Phases): (name: string) => void {
  let last = performance.now()
  return (name) => {
    const now = performance.now()
    phases[name] = Math.round((now - last) * 100) / 100
    last = now
  }
}
