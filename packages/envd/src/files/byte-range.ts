/** A part of a file, both ends included. */
export interface ByteRange {
  readonly start: number
  readonly end: number
}

/**
 * The part of `size` bytes that a Range header asks for. Undefined for the whole file: without a header, for several
 * ranges, and for any range of an empty file, as some clients ask for one with every request. 'unsatisfiable' when it
 * lies outside, 'invalid' when it is none.
 */
export function parseRange(
  header: string | undefined,
  size: number,
): ByteRange | undefined | 'unsatisfiable' | 'invalid' {
  if (header === undefined) return undefined
  if (!header.startsWith('bytes=')) return 'invalid'
  const ranges = header
    .slice('bytes='.length)
    .split(',')
    .map((text) => text.trim())
  const found = ranges.filter(Boolean).map((text) => parseOne(text, size))
  if (found.includes('invalid')) return 'invalid'
  const inside = found.filter((range) => typeof range === 'object')
  if (inside.length > 0) return inside.length === 1 ? inside[0] : undefined
  return found.length === 0 || size === 0 ? undefined : 'unsatisfiable'
}

function parseOne(text: string, size: number): ByteRange | 'unsatisfiable' | 'invalid' {
  const match = /^(\d*)\s*-\s*(\d*)$/.exec(text)
  if (!match || (match[1] === '' && match[2] === '')) return 'invalid'
  if (match[1] === '') {
    const length = Math.min(Number(match[2]), size)
    return length === 0 ? 'unsatisfiable' : { start: size - length, end: size - 1 }
  }
  const start = Number(match[1])
  if (start >= size) return 'unsatisfiable'
  if (match[2] === '') return { start, end: size - 1 }
  const end = Number(match[2])
  return end < start ? 'invalid' : { start, end: Math.min(end, size - 1) }
}
