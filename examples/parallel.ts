/**
 * Two sandboxes at work at the same time, each on half of the numbers.
 *
 *     eval "$(npm run -s env)"
 *     node examples/parallel.ts
 */
import { Sandbox } from '@e2b/code-interpreter'

async function countPrimes(start: number, stop: number): Promise<number> {
  const sandbox = await Sandbox.create()
  try {
    const { text, error } = await sandbox.runCode(`
from math import isqrt
sum(all(n % d for d in range(2, isqrt(n) + 1)) for n in range(${start}, ${stop}))
`)
    if (error) throw new Error(error.traceback)
    console.log(`${sandbox.sandboxId}: ${text} primes in [${start}, ${stop})`)
    return Number(text)
  } finally {
    await sandbox.kill()
  }
}

const [low, high] = await Promise.all([countPrimes(2, 50_000), countPrimes(50_000, 100_000)])
console.log(`${low + high} primes below 100000`)
