import { ENGINE_NAMES, type EngineName, type EngineReport } from '@sandbox/host/engines/engine'
import { installers } from '../packages/server/src/engines/installers.ts'
import type { AliveMemory, AliveReport } from './alive.ts'
import type { Measure } from './engine-lanes.ts'
import { ms, table } from './report.ts'
import type { Throughput } from './starts.ts'
import { percentile, summarize } from './statistics.ts'

/** Everything that one run of `bench engines` has measured. */
export interface EnginesResults {
  readonly machine: string
  /** The installed engines, strongest first; those that boot nothing here are not measured. */
  readonly reports: readonly { name: EngineName; report: EngineReport }[]
  readonly measures: readonly Measure[]
  readonly throughput: ReadonlyMap<EngineName, { fresh: Throughput; pooled: Throughput }>
  readonly alive: ReadonlyMap<EngineName, AliveReport>
}

const FLOORS = [
  '- The floor of a create and a resume is the engine alone, to the first answer of the agent (`criu restore`, `runsc',
  '  restore`, the load of a machine snapshot), of a pause the capture alone, in a slot that was made ready before.',
  '- The floor of commands is the same program on the files of the container, by the kernel of this machine (`chroot`); of',
  '  transfers `cat` through a pipe.',
  '- USS counts pages that one process maps. The sentry of gVisor and the programs in it map the same pages: *charged* is',
  '  what the kernel counts for the sandbox, whoever maps it. *Of the machine* includes other work.',
].join('\n')

/** Times of Firecracker in an emulated machine say nothing about Firecracker. */
const NOT_EMULATED =
  'Bare snapshot load in Firecracker is no number here: without KVM it runs in the emulated machine alone ' +
  "(`npm run test:microvm -- --part floor`, next to our create), whose times are never shown as the product's."

/** The results of `bench engines` as markdown: who runs here, times, rates and memory side by side. */
export function enginesReport(results: EnginesResults): string {
  const { reports, machine } = results
  const runsMicrovm = reports.some(({ name, report }) => name === 'microvm' && report.usable)
  return [
    `Machine: ${machine}.`,
    table(
      ['Engine', 'version', 'here'],
      ENGINE_NAMES.map((name) => engineRow(name, reports)),
    ),
    ...(runsMicrovm ? [] : [NOT_EMULATED]),
    timesTable(results.measures),
    throughputTable(results),
    memoryTable(results),
    FLOORS,
  ].join('\n\n')
}

function engineRow(name: EngineName, reports: EnginesResults['reports']): string[] {
  const report = reports.find((candidate) => candidate.name === name)?.report
  if (report?.usable) return [name, report.version, report.detail]
  const commands = installers
    .filter(({ engine }) => engine === name)
    .map((installer) => `\`npm run engine -- install ${installer.name}\``)
  if (!report) return [name, '', `not measured: not installed (${commands.join(' or ')})`]
  const why = [report.detail, report.remedy].filter(Boolean).join('. ')
  return [name, report.version, `not measured: ${oneLine(why)}`]
}

/** As a cell of a table has it. */
const oneLine = (text: string): string => text.replaceAll(/\s+/g, ' ').replaceAll('|', '\\|')

/** The first engine of each measure is what the others are compared with. */
function timesTable(measures: readonly Measure[]): string {
  const [reference] = measures[0]!.byEngine.keys()
  const rows = measures.flatMap(({ title, mib, byEngine }) => {
    const [first] = byEngine.values()
    const referenceMs = percentile(first!.values, 0.5)
    return [...byEngine].map(([name, { values, floorMs }]) => {
      const { count, p50, p95 } = summarize(values)
      const floor = floorMs.length === 0 ? undefined : percentile(floorMs, 0.5)
      return [
        `${title}: ${name}`,
        ...[ms(p50), ms(p95), mib === undefined ? '' : ((mib * 1000) / p50).toFixed(0)],
        ...(floor === undefined ? ['', ''] : [ms(floor), times(p50, floor)]),
        ...[times(p50, referenceMs), String(count)],
      ]
    })
  })
  const head = ['p50 ms', 'p95 ms', 'MiB/s', 'floor p50 ms', 'of the floor', `of ${reference}`, 'runs']
  return table(['', ...head], rows)
}

const times = (value: number, base: number): string => `${(value / base).toFixed(2)}×`

function throughputTable({ throughput }: EnginesResults): string {
  const [reference] = throughput
  const [name, of] = reference!
  const rows = [...throughput].map(([engine, { fresh, pooled }]) => [
    engine,
    ...[fresh.perSecond.toFixed(1), times(fresh.perSecond, of.fresh.perSecond)],
    ...[pooled.perSecond.toFixed(1), times(pooled.perSecond, of.pooled.perSecond)],
  ])
  const head = ['no pool /s', `of ${name}`, 'pool /s', `of ${name}`]
  return table(['Create, agent answer and kill, sustained', ...head], rows)
}

function memoryTable({ alive }: EnginesResults): string {
  const [reference] = alive
  const [referenceName, of] = reference!
  const row = (name: string, memory: AliveMemory, base: AliveMemory): string[] => [
    name,
    ...[memory.ussMb, memory.pssMb, memory.chargedMb, memory.machineMb].map((value) => value.toFixed(1)),
    times(memory.chargedMb, base.chargedMb),
    memory.processes.toFixed(0),
  ]
  const rows = [...alive].flatMap(([name, { started, used }]) => [
    row(`${name}: after the start`, started, of.started),
    row(`${name}: after \`1+1\``, used, of.used),
  ])
  const head = [
    'USS MB',
    'PSS MB',
    'charged MB',
    'of the machine MB',
    `charged of ${referenceName}`,
    'processes',
  ]
  return table([`Per sandbox, ${of.count} alive`, ...head], rows)
}
