import { ApiError } from '@sandbox/contract/errors'

function unescapeOnce(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    throw new ApiError('badRequest', 'Invalid metadata filter: broken percent encoding')
  }
}

/**
 * Reads the `metadata` query parameter, already decoded once. Clients encode keys and values, then the string
 * of pairs, so both layers are taken off here.
 * @throws ApiError 400 when a pair has not exactly one `=`, or a NUL character
 */
export function parseMetadataFilter(filter: string): Record<string, string> {
  const pairs = unescapeOnce(filter)
    .split('&')
    .filter((pair) => pair !== '')
    .map((pair) => {
      const [key, value, ...rest] = pair.split('=')
      if (key === undefined || value === undefined || rest.length > 0) {
        throw new ApiError('badRequest', `Invalid metadata filter: '${pair}' must be key=value`)
      }
      return [unescapeOnce(key), unescapeOnce(value)] as const
    })
  if (pairs.some((pair) => pair.join('').includes('\0'))) {
    throw new ApiError('badRequest', 'Invalid metadata filter: metadata never contains NUL characters')
  }
  return Object.fromEntries(pairs)
}
