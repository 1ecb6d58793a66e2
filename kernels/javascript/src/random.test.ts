import { randomBytes, randomUUID } from 'node:crypto'
import vm, { createContext } from 'node:vm'
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

test('other realms draw from the same generator, however they are made', () => {
  installRandom()
  const realms = [createContext(), vm.createContext({ Math }), vm.createContext({ Math: undefined, keep: 1 })]
  expect(realms.map((realm) => vm.runInContext('globalThis.Math?.random', realm))).toEqual([
    Math.random,
    Math.random,
    undefined,
  ])
  expect(vm.runInNewContext('[Math.random, given]', { given: 1 })[0]).toBe(Math.random)
  expect(new vm.Script('Math.random').runInNewContext()).toBe(Math.random)
  expect(vm.runInNewContext('new Error().stack', {}, 'own-name.js')).toContain('own-name.js:1')
})
