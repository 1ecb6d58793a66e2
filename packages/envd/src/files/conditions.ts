import { type Exchange, header } from '../http/exchange.ts'

/**
 * What the conditions of a request say about a file that has a date and no entity tag: 'unmodified' for what the
 * client has already, 'failed' when it wants another state than there is.
 */
export function checkConditions(
  request: Exchange['request'],
  modified: Date,
): 'proceed' | 'unmodified' | 'failed' {
  const dateIn = (name: string): number => Date.parse(header(request, name) ?? '')
  const match = header(request, 'if-match')
  if (match !== undefined && match.trim() !== '*') return 'failed'
  if (match === undefined && modified.getTime() > dateIn('if-unmodified-since')) return 'failed'
  const noneMatch = header(request, 'if-none-match')
  if (noneMatch !== undefined) return noneMatch.trim() === '*' ? 'unmodified' : 'proceed'
  return modified.getTime() <= dateIn('if-modified-since') ? 'unmodified' : 'proceed'
}
