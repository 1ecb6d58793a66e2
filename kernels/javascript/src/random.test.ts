import { randomBytes, randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { openSslEntropy } from './openssl.ts'
import { installRandom, reseed } from './random.ts'

test('Math.random is spread evenly over [0, 1)', () => {
  installRandom()
  const buckets = new Array<number>(10).fill(0)
  for (let count = 0; count < 100_000; count += 1) {
    const value = Math.random()
    expect(value >= 0 && value < 1).toBe(true)
    buckets[Math.floor(value * 10)]! += 1
  }
  for (const bucket of buckets) expect(Math.abs(bucket - 10_000)).toBeLessThan(600)
})

test('a new seed goes into OpenSSL too, and no identifier made ahead is given out', () => {
  const seeds: Buffer[] = []
  const add = openSslEntropy()
  const before = Array.from({ length: 5 }, () => randomUUID())
  reseed((seed) => {
    seeds.push(seed)
    add(seed)
  })
  expect(seeds.map((seed) => seed.length)).toEqual([48])
  expect(seeds[0]?.every((byte) => byte === 0)).toBe(false)
  expect(before).not.toContain(randomUUID())
  expect(randomBytes(8)).not.toEqual(randomBytes(8))
})
