import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { addressNumber, addressText, inRanges, mergedRanges, parseRange } from './address-ranges.ts'
import { compileEgress, decideEgress, type EgressDecision, headersFor, parseNetworkPolicy } from './policy.ts'

const entry = fc
  .tuple(fc.nat({ max: 0xffff_ffff }), fc.integer({ min: 0, max: 32 }))
  .map(([address, prefix]) => `${addressText(address)}/${prefix}`)

test('merged ranges hold the same addresses, sorted and apart', () => {
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 20 }), fc.nat({ max: 0xffff_ffff }), (entries, other) => {
      const merged = mergedRanges(entries)
      const parsed = entries.map((text) => parseRange(text)!)
      const edges = parsed.flatMap(({ first, last }) => [first - 1, first, last, last + 1])
      for (const address of [other, ...edges].filter((edge) => edge >= 0 && edge <= 0xffff_ffff)) {
        const expected = parsed.some(({ first, last }) => address >= first && address <= last)
        expect(inRanges(merged, address)).toBe(expected)
      }
      for (let at = 1; at < merged.length; at++) {
        expect(merged[at]!.first).toBeGreaterThan(merged[at - 1]!.last + 1)
      }
    }),
  )
})

describe('decisions', () => {
  const decide = (config: object, address: string, name?: string, internet = true): EgressDecision => {
    const egress = compileEgress(parseNetworkPolicy(JSON.stringify(config), internet), [])
    return egress ? decideEgress(egress, name, address) : 'byAddress'
  }
  const all = ['0.0.0.0/0']

  test.each<[object, string, string | undefined, EgressDecision]>([
    [{}, '1.1.1.1', undefined, 'byAddress'],
    [{ denyOut: all }, '1.1.1.1', undefined, 'refused'],
    [{ denyOut: ['1.1.1.0/24'] }, '1.1.2.1', undefined, 'byAddress'],
    [{ denyOut: ['1.1.1.0/024'] }, '1.1.1.9', undefined, 'refused'],
    [{ denyOut: ['1.1.1.0/24'], allowOut: ['1.1.1.1'] }, '1.1.1.1', undefined, 'byAddress'],
    [{ denyOut: all, allowOut: ['a.b'] }, '1.1.1.1', 'a.b', 'byName'],
    [{ denyOut: all, allowOut: ['a.b'] }, '1.1.1.1', 'x.a.b', 'refused'],
    [{ denyOut: all, allowOut: ['*.a.b'] }, '1.1.1.1', 'y.x.a.b', 'byName'],
    [{ denyOut: all, allowOut: ['*.a.b'] }, '1.1.1.1', 'a.b', 'refused'],
    [{ denyOut: all, allowOut: ['*.a.b'] }, '1.1.1.1', '.a.b', 'refused'],
    [{ denyOut: all, allowOut: ['*'] }, '1.1.1.1', undefined, 'refused'],
    [{ denyOut: all, allowOut: ['a.b'] }, '8.8.8.8', undefined, 'byAddress'],
    [{ denyOut: all, allowOut: ['a.b'], dnsServers: [] }, '8.8.8.8', undefined, 'refused'],
    [{ denyOut: all, allowOut: ['a.b'], dnsServers: ['9.9.9.9'] }, '9.9.9.9', undefined, 'byAddress'],
    [{ denyOut: all, dnsServers: ['9.9.9.9'] }, '9.9.9.9', undefined, 'refused'],
    [{ denyOut: ['2001:db8::/32'] }, '1.1.1.1', undefined, 'byAddress'],
  ])('%j, %s %s: %s', (config, address, name, expected) => {
    expect(decide(config, address, name)).toBe(expected)
  })

  test('without internet access the denied list is everything', () => {
    expect(decide({ denyOut: ['9.9.9.9'] }, '1.1.1.1', undefined, false)).toBe('refused')
    expect(decide({ allowOut: ['1.1.1.1'] }, '1.1.1.1', undefined, false)).toBe('byAddress')
  })
})

test('the open policy is compiled to nothing, with settings that concern arriving traffic too', () => {
  for (const config of [
    '',
    '{}',
    '{"maskRequestHost":"a.b","allowOut":["1.1.1.1"],"dnsServers":["1.1.1.1"]}',
  ]) {
    expect(compileEgress(parseNetworkPolicy(config, true), [])).toBeUndefined()
  }
})

test('a rule of the exact name wins, then the longest suffix', () => {
  const rule = (value: string): object[] => [{ transform: { headers: { x: value } } }]
  const rules = { 'A.b.c': rule('exact'), '*.c': rule('short'), '*.b.c': rule('long'), 'd.e': [] }
  const egress = compileEgress(parseNetworkPolicy(JSON.stringify({ rules }), true), [])!
  const value = (name: string): string | undefined => headersFor(egress, name)?.x
  expect(['a.b.c', 'z.b.c', 'z.c', 'b.c', 'c', 'd.e', 'constructor'].map(value)).toEqual([
    'exact',
    'long',
    'short',
    'short',
    undefined,
    undefined,
    undefined,
  ])
  expect(decideEgress(egress, 'a.b.c', '1.1.1.1')).toBe('byAddress')
})

test('no resolver is asked in an internal range', () => {
  const internal = mergedRanges(['10.0.0.0/8'])
  const config = { denyOut: ['0.0.0.0/0'], allowOut: ['a.b'], dnsServers: ['10.1.1.1', '9.9.9.9'] }
  const policy = parseNetworkPolicy(JSON.stringify(config), true)
  expect(compileEgress(policy, internal)?.resolvers).toEqual(['9.9.9.9'])
  expect(addressNumber('9.9.9.9')).toBe(0x0909_0909)
})

test.each([
  '{',
  '[]',
  '{"allowOut":1}',
  '{"denyOut":["a.b"]}',
  `{"rules":{"a.b":[{"transform":{"headers":{"x":"\${e2b.secrets.y}"}}}]}}`,
])('refuses %s', (json) => {
  expect(() => parseNetworkPolicy(json, true)).toThrow()
})
