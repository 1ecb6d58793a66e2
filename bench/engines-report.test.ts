import { expect, test } from 'vitest'
import type { AliveMemory } from './alive.ts'
import { measureOf } from './engine-lanes.ts'
import { type EnginesResults, enginesReport } from './engines-report.ts'

const memory = (chargedMb: number): AliveMemory => ({
  ...{ rssMb: 100, ussMb: 8, pssMb: 10, machineMb: 12, processes: 6 },
  chargedMb,
})
const alive = (chargedMb: number) => ({
  count: 20,
  started: memory(chargedMb),
  used: memory(chargedMb * 2),
})
const rate = (perSecond: number) => ({
  fresh: { perSecond, count: 1 },
  pooled: { perSecond: perSecond * 2, count: 1 },
})
const report = (usable: boolean, detail: string) => ({ usable, version: '1', detail, remedy: 'a remedy' })

const values = { container: [60, 40, 50], gvisor: [150] }
const floors = { container: [40], gvisor: [100] }
const ofEngine = (from: typeof values) => (name: string) => from[name as keyof typeof values]

const results: EnginesResults = {
  machine: 'a machine',
  reports: [
    { name: 'gvisor', report: report(true, 'boots') },
    { name: 'container', report: report(true, 'restores') },
  ],
  measures: [
    measureOf('Create', ['container', 'gvisor'], ofEngine(values), ofEngine(floors)),
    measureOf('Kill', ['container', 'gvisor'], ofEngine(values), () => []),
    { ...measureOf('Up', ['container', 'gvisor'], ofEngine(values), ofEngine(floors)), mib: 100 },
  ],
  throughput: new Map([
    ['container', rate(20)],
    ['gvisor', rate(5)],
  ]),
  alive: new Map([
    ['container', alive(10)],
    ['gvisor', alive(200)],
  ]),
}

test('each engine stands next to its floor and to the container', () => {
  const lines = enginesReport(results).split('\n')
  expect(lines).toContain('| Create: container | 50 | 60 |  | 40 | 1.25× | 1.00× | 3 |')
  expect(lines).toContain('| Create: gvisor | 150 | 150 |  | 100 | 1.50× | 3.00× | 1 |')
  expect(lines).toContain('| Kill: gvisor | 150 | 150 |  |  |  | 3.00× | 1 |')
  expect(lines).toContain('| Up: container | 50 | 60 | 2000 | 40 | 1.25× | 1.00× | 3 |')
  expect(lines).toContain('| gvisor | 5.0 | 0.25× | 10.0 | 0.25× |')
  expect(lines).toContain('| gvisor: after the start | 8.0 | 10.0 | 200.0 | 12.0 | 20.00× | 6 |')
})

test('an engine that is not there is named with the commands that bring it, and no time is made up for it', () => {
  const text = enginesReport(results)
  expect(text).toMatch(/^\| microvm .*not installed .*install firecracker.*install qemu/m)
  expect(text).toContain('never shown as the product')
})

test('an engine that boots nothing here says why, in one line', () => {
  const broken = report(false, 'no guest comes up:\nline two')
  const text = enginesReport({
    ...results,
    reports: [{ name: 'microvm', report: broken }, ...results.reports],
  })
  expect(text).toContain('| microvm | 1 | not measured: no guest comes up: line two. a remedy |')
  const usable = { name: 'microvm', report: report(true, 'boots') } as const
  expect(enginesReport({ ...results, reports: [usable, ...results.reports] })).not.toContain('never shown')
})
