const beganMs = performance.now()

/** One line for whoever waits, on standard error: standard output is the result. */
export function step(text: string): void {
  process.stderr.write(`${((performance.now() - beganMs) / 1000).toFixed(0).padStart(4)} s  ${text}\n`)
}
