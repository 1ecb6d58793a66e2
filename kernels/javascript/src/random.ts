/**
 * Random numbers of this process's own. A copy of a running process shares every state in its memory, so
 * `reseed` takes new ones from the operating system: for `Math.random` (V8's own state cannot be set, a
 * generator of ours replaces it) and for OpenSSL, from which `crypto` draws.
 */
import { randomInt, randomUUID } from 'node:crypto'
import { closeSync, openSync, readSync } from 'node:fs'
import { installRandomInRealms } from './realms.ts'

export type AddEntropy = (seed: Buffer) => void

const SEED_BYTES = 48
/** Node makes so many UUIDs ahead. */
const CACHED_UUIDS = 128
/** And so many numbers for `randomInt`. */
const CACHED_INTEGERS = 1024
const state = new Uint32Array(4)

function fromSystem(bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes)
  // Not from `crypto`: its generator is what has to be changed.
  const file = openSync('/dev/urandom', 'r')
  try {
    readSync(file, buffer)
  } finally {
    closeSync(file)
  }
  return buffer
}

/** xoshiro128**, by David Blackman and Sebastiano Vigna. */
function nextWord(): number {
  const [a, b, c, d] = state as unknown as [number, number, number, number]
  const product = Math.imul(b, 5)
  const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0
  const shifted = b << 9
  state[2] = c ^ a
  state[3] = d ^ b
  state[1] = b ^ state[2]
  state[0] = a ^ state[3]
  state[2] ^= shifted
  state[3] = (state[3] << 11) | (state[3] >>> 21)
  return result
}

const HIGH = 2 ** 26
const SCALE = 2 ** -53

/** 53 random bits, as V8's. */
function random(): number {
  return ((nextWord() >>> 5) * HIGH + (nextWord() >>> 6)) * SCALE
}

export function installRandom(): void {
  seedMathRandom()
  Object.defineProperty(Math, 'random', { value: random, writable: true, configurable: true })
  installRandomInRealms(random)
}

function seedMathRandom(): void {
  const seed = fromSystem(state.byteLength)
  for (let index = 0; index < state.length; index += 1) state[index] = seed.readUInt32LE(index * 4) | 1
}

/** Must be called in the first execution after a copy. */
export function reseed(addEntropy: AddEntropy): void {
  seedMathRandom()
  addEntropy(fromSystem(SEED_BYTES))
  for (let count = 0; count < CACHED_UUIDS; count += 1) randomUUID()
  for (let count = 0; count < CACHED_INTEGERS; count += 1) randomInt(2)
}
