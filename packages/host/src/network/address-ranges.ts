/** IPv4 ranges as numbers. Guests have no IPv6, so entries of it are without effect wherever these are used. */
import { isIPv4 } from 'node:net'

/** First and last address, both included. */
export interface AddressRange {
  readonly first: number
  readonly last: number
}

/** @param address dotted form, valid */
export function addressNumber(address: string): number {
  return address.split('.').reduce((sum, octet) => sum * 256 + Number(octet), 0)
}

export function addressText(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.')
}

/** An IPv4 address or CIDR block, host bits ignored; undefined for anything else. */
export function parseRange(entry: string): AddressRange | undefined {
  const [address = '', prefix = '32', ...rest] = entry.split('/')
  const bits = Number(prefix)
  if (!isIPv4(address) || rest.length > 0 || !/^\d{1,3}$/.test(prefix) || bits > 32) return undefined
  const size = 2 ** (32 - bits)
  const number = addressNumber(address)
  const first = number - (number % size)
  return { first, last: first + size - 1 }
}

/** The same addresses as sorted ranges that neither overlap nor touch. */
export function mergedRanges(entries: readonly string[]): AddressRange[] {
  const sorted = entries.flatMap((entry) => parseRange(entry) ?? []).sort((a, b) => a.first - b.first)
  const merged: AddressRange[] = []
  for (const range of sorted) {
    const previous = merged.at(-1)
    if (!previous || range.first > previous.last + 1) merged.push(range)
    else if (range.last > previous.last) merged[merged.length - 1] = { ...previous, last: range.last }
  }
  return merged
}

/** @param ranges as `mergedRanges` answers them */
export function inRanges(ranges: readonly AddressRange[], address: number): boolean {
  let low = 0
  let high = ranges.length - 1
  while (low <= high) {
    const middle = (low + high) >> 1
    const range = ranges[middle]
    if (!range) return false
    if (address < range.first) high = middle - 1
    else if (address > range.last) low = middle + 1
    else return true
  }
  return false
}
