import { expect, test } from 'vitest'
import { servingEngine } from './doctor.ts'

const report = (usable: boolean) => ({ usable, version: '1', detail: '', remedy: usable ? '' : 'do this' })
const REPORTS = [
  { name: 'microvm', report: report(false) },
  { name: 'container', report: report(true) },
]

test('says which engine serves, and fails where none does or the named one does not', () => {
  expect(servingEngine('auto', REPORTS)).toMatchObject({ ok: true, detail: 'container (isolation: auto)' })
  expect(servingEngine('container', REPORTS).ok).toBe(true)
  expect(servingEngine('microvm', REPORTS)).toMatchObject({ ok: false, required: true, remedy: 'do this' })
  const none = servingEngine('gvisor', REPORTS)
  expect(none).toMatchObject({ ok: false, required: true, remedy: 'npm run engine -- list' })
})
