import fc from 'fast-check'
import { expect, it } from 'vitest'
import { parseMetadataFilter } from './metadata-filter.ts'
import { nextToken, parseNextToken } from './pagination.ts'

const text = fc.string({ unit: 'grapheme' })

it('reads every metadata filter that clients write', () => {
  fc.assert(
    fc.property(fc.dictionary(text, text, { minKeys: 1 }), (metadata) => {
      const pairs = Object.entries(metadata).map(([key, value]): [string, string] => [
        encodeURIComponent(key),
        encodeURIComponent(value),
      ])
      const read = parseMetadataFilter(new URLSearchParams(pairs).toString())
      expect(Object.entries(read)).toEqual(Object.entries(metadata))
    }),
  )
})

it('reads its own page tokens in their order only', () => {
  const position = fc.record({
    startedAt: fc.integer({ min: 0, max: 4e12 }),
    id: fc.stringMatching(/^i[a-z0-9]{20}$/),
  })
  fc.assert(
    fc.property(position, fc.constantFrom('asc' as const, 'desc' as const), (at, order) => {
      const token = nextToken(at, order)
      expect(parseNextToken(token, order)).toEqual(at)
      expect(() => parseNextToken(token, order === 'asc' ? 'desc' : 'asc')).toThrow('Invalid next token')
    }),
  )
})
