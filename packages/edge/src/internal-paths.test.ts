import { expect, test } from 'vitest'
import { isInternalPath } from './internal-paths.ts'

test.each([
  '/init',
  '/start',
  '/init/',
  '/init?x=1',
  '//init',
  '/./init',
  '/a/../init',
  '/%69nit',
  '/%2569nit',
  '/%2Finit',
  '/\\init',
  '/init;x',
  '/init%00',
  '/init%3Fx',
  '/INIT',
  '/freeze',
  '/unfreeze',
  '/collapse',
  '/fsfreeze',
  '/fsthaw',
  '/upgrade',
  '/upgrade/now',
])('%s is internal', (path) => expect(isInternalPath(path)).toBe(true))

test.each(['/', '/health', '/files?path=/init', '/initial', '/process.Process/Start', '/a/init', '/x%', '*'])(
  '%s is not',
  (path) => expect(isInternalPath(path)).toBe(false),
)
