import koffi from 'koffi'
import type { AddEntropy } from './random.ts'

/** OpenSSL's generator of this process; Node exports the function for addons, but not to scripts. */
export function openSslEntropy(): AddEntropy {
  const add = koffi.load(null).func('void RAND_add(const void *buffer, int size, double entropy)') as (
    buffer: Buffer,
    size: number,
    entropy: number,
  ) => void
  return (seed) => add(seed, seed.length, seed.length)
}
